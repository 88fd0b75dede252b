/* The floor under `jailmk enter`: the same namespaces, mounts and layers, made by a static program that
 * parses nothing, checks nothing and explains nothing. What jailmk costs above it is the price of the
 * spec, the seal and the messages.
 *
 *   floor ROOT PROGRAM [ARGUMENT...]     ROOT: a tree that `jailmk build` made
 *   FLOOR_WITHOUT=net,seccomp,... leaves steps out, so that each one's cost can be told.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define INSIDE 1000
#define INSTRUCTIONS 283 /* as many as jailmk's default profile has */

static const char *left_out;

static int wanted(const char *step)
{
    return !left_out || !strstr(left_out, step);
}

static void check(int good, const char *what)
{
    if (!good) {
        perror(what);
        _exit(125);
    }
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
    close(fd);
}

static int clone_tree(int directory, const char *path, uint64_t flags)
{
    int tree = syscall(SYS_open_tree, directory, path,
                       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH);
    check(tree >= 0, path);
    if (flags) {
        struct mount_attr attributes = {.attr_set = flags, .propagation = 1 << 18 /* MS_PRIVATE */};
        check(!syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                       sizeof attributes), "mount_setattr");
    }
    return tree;
}

static void attach(int tree, int directory, const char *path)
{
    int place = openat(directory, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    check(place >= 0, path);
    check(!syscall(SYS_move_mount, tree, "", place, "",
                   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), path);
    close(place);
    close(tree);
}

static int new_filesystem(const char *kind, const char *const *options, uint64_t flags)
{
    int context = syscall(SYS_fsopen, kind, FSOPEN_CLOEXEC);
    check(context >= 0, kind);
    for (; options && options[0]; options += 2)
        check(!syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, options[0], options[1], 0), options[0]);
    check(!syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0), kind);
    int tree = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, flags);
    check(tree >= 0, kind);
    close(context);
    return tree;
}

static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    check(fd >= 0 && !ioctl(fd, SIOCSIFFLAGS, &request), "loopback");
    close(fd);
}

static const uint64_t HARMLESS =
    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

static void make_mounts(int root)
{
    static const char *const TMPFS[] = {"size", "1073741824", "nr_inodes", "65536", "mode", "0700", NULL};
    static const char *const DEVPTS[] = {"ptmxmode", "0666", "mode", "0620", "max", "1024", NULL};
    static const char *const SHOWN[] = {"home/agent", "run", "var/tmp", "dev/shm", "tmp", NULL};
    static const char *const MASKED[] = {"1/cmdline", "acpi", "asound", "cmdline", "config.gz", "crypto",
        "diskstats", "driver", "interrupts", "kallsyms", "kcore", "key-users", "keys", "kmsg", "kpagecgroup",
        "kpagecount", "kpageflags", "latency_stats", "mdstat", "modules", "partitions", "sched_debug",
        "schedstat", "scsi", "slabinfo", "softirqs", "swaps", "sysrq-trigger", "timer_list", "timer_stats",
        "vmallocinfo", NULL};
    static const char *const READ_ONLY[] = {"bus", "fs", "irq", "sys", NULL};
    static const char *const DEVICES[] = {"null", "zero", "full", "random", "urandom", "tty", NULL};
    static const char *const LIMITS[] = {"user_namespaces", "mnt_namespaces", "pid_namespaces",
        "net_namespaces", "ipc_namespaces", "uts_namespaces", "cgroup_namespaces", "time_namespaces",
        "inotify_instances", NULL};
    char path[64];

    int proc = new_filesystem("proc", NULL, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    attach(dup(proc), root, "proc");
    int limits = openat(proc, "sys/user", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int scratch = new_filesystem("tmpfs", TMPFS, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    attach(dup(scratch), root, "tmp");
    mkdirat(scratch, "empty", 0555);
    close(openat(scratch, "empty-file", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0444));
    for (int i = 0; SHOWN[i]; i++) {
        snprintf(path, sizeof path, "%d", i);
        mkdirat(scratch, path, 01777);
        fchmodat(scratch, path, 01777, 0);
        attach(clone_tree(scratch, path, 0), root, SHOWN[i]);
    }
    if (wanted("masks")) {
        for (int i = 0; MASKED[i]; i++) {
            struct stat there;
            if (fstatat(proc, MASKED[i], &there, AT_SYMLINK_NOFOLLOW))
                continue;
            attach(clone_tree(scratch, S_ISDIR(there.st_mode) ? "empty" : "empty-file", HARMLESS), proc, MASKED[i]);
        }
        for (int i = 0; READ_ONLY[i]; i++)
            attach(clone_tree(proc, READ_ONLY[i], HARMLESS), proc, READ_ONLY[i]);
    }
    for (int i = 0; DEVICES[i]; i++) {
        char target[16];
        snprintf(path, sizeof path, "/dev/%s", DEVICES[i]);
        snprintf(target, sizeof target, "dev/%s", DEVICES[i]);
        attach(clone_tree(AT_FDCWD, path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), root, target);
    }
    attach(new_filesystem("devpts", DEVPTS, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), root, "dev/pts");
    for (int i = 0; LIMITS[i]; i++) {
        snprintf(path, sizeof path, "max_%s", LIMITS[i]);
        int fd = openat(limits, path, O_WRONLY | O_CLOEXEC);
        const char *value = LIMITS[i + 1] ? "0" : "64";
        check(fd >= 0 && write(fd, value, strlen(value)) > 0, path);
        close(fd);
    }
}

static void landlock(void)
{
    static const char *const READ_EXECUTE[] = {"/", NULL};
    static const char *const WRITE[] = {"/proc", "/dev/pts", "/dev/null", "/dev/zero", "/dev/full",
        "/dev/random", "/dev/urandom", "/dev/tty", "/home/agent", "/run", "/var/tmp", "/dev/shm", "/tmp", NULL};
    int abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return;
    uint64_t all = (1ULL << (abi >= 5 ? 16 : abi >= 3 ? 15 : abi >= 2 ? 14 : 13)) - 1;
    struct { uint64_t fs, net, scoped; } handled = {all, abi >= 4 ? 3 : 0, abi >= 6 ? 3 : 0};
    int ruleset = syscall(SYS_landlock_create_ruleset, &handled, abi >= 6 ? 24 : abi >= 4 ? 16 : 8, 0);
    check(ruleset >= 0, "landlock_create_ruleset");
    for (int kind = 0; kind < 2; kind++) {
        const char *const *paths = kind ? WRITE : READ_EXECUTE;
        for (int i = 0; paths[i]; i++) {
            struct stat there;
            struct landlock_path_beneath_attr rule = {.parent_fd = open(paths[i], O_PATH | O_CLOEXEC)};
            check(rule.parent_fd >= 0 && !fstat(rule.parent_fd, &there), paths[i]);
            rule.allowed_access = kind ? all : (1 << 0 | 1 << 2 | 1 << 3);
            if (!S_ISDIR(there.st_mode)) /* execute, write, read, truncate, ioctl */
                rule.allowed_access &= 0x7 | 1 << 14 | 1 << 15;
            check(!syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), paths[i]);
            close(rule.parent_fd);
        }
    }
    check(!syscall(SYS_landlock_restrict_self, ruleset, 0), "landlock_restrict_self");
    close(ruleset);
}

static void capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    for (int capability = 0; prctl(PR_CAPBSET_DROP, capability) == 0; capability++)
        ;
    check(!prctl(PR_SET_SECUREBITS, 0xef), "securebits");
    check(!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient");
    check(!syscall(SYS_capset, &header, none), "capset");
}

/* A tree over the call's number, as deep as jailmk's, that allows everything at its leaves. */
static void seccomp(void)
{
    struct sock_filter code[INSTRUCTIONS];
    int n = 0;
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    while (n < INSTRUCTIONS - 1)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 4000 + n, 0, 0);
    /* Most calls leave after some seven comparisons. */
    code[8] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, code};
    check(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

static void limit(int resource, rlim_t value)
{
    struct rlimit limits;
    getrlimit(resource, &limits);
    if (value < limits.rlim_max)
        limits.rlim_max = value;
    limits.rlim_cur = limits.rlim_max;
    check(!setrlimit(resource, &limits), "setrlimit");
}

static void child(int channel, int root_fd, char **arguments)
{
    char order;
    check(read(channel, &order, 1) == 1, "the maps");
    check(!setresgid(INSIDE, INSIDE, INSIDE) && !setresuid(INSIDE, INSIDE, INSIDE), "ids");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_DUMPABLE, 0);
    check(!syscall(SYS_unshare, CLONE_NEWCGROUP), "cgroup namespace");
    check(!sethostname("floor", 5), "host name");
    if (wanted("net"))
        loopback_up();
    syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    struct mount_attr private = {.propagation = 1 << 18};
    check(!syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &private, sizeof private), "private");
    int root = root_fd;
    struct mount_attr sealed = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                                .propagation = 1 << 18};
    check(!syscall(SYS_mount_setattr, root, "", AT_EMPTY_PATH | AT_RECURSIVE, &sealed, sizeof sealed), "root");
    check(!syscall(SYS_move_mount, root, "", AT_FDCWD, "/",
                   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "root");
    make_mounts(root);
    check(!fchdir(root) && !syscall(SYS_pivot_root, ".", ".") && !syscall(SYS_umount2, ".", 2), "pivot_root");
    check(!chdir("/"), "/");
    setsid();
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NOFILE, 1024);
    limit(RLIMIT_MEMLOCK, 8 << 20);
    limit(RLIMIT_MSGQUEUE, 800 << 10);
    limit(RLIMIT_SIGPENDING, 4096);
    limit(RLIMIT_NPROC, 2048);
    limit(RLIMIT_DATA, 1ULL << 34);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (wanted("landlock"))
        landlock();
    if (wanted("capabilities"))
        capabilities();
    syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
    check(!chdir("/home/agent"), "/home/agent");
    if (wanted("seccomp"))
        seccomp();
    pid_t command = fork();
    check(command >= 0, "fork");
    if (command == 0) {
        char *environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/agent", NULL};
        setpgid(0, 0);
        execve(arguments[0], arguments, environment);
        check(0, arguments[0]);
    }
    close(channel);
    int status;
    while (wait(&status) != command)
        ;
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

int main(int count, char **arguments)
{
    if (count < 3) {
        fprintf(stderr, "usage: floor ROOT PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    left_out = getenv("FLOOR_WITHOUT");
    int channel[2], pidfd, root = -1;
    int operator = geteuid() == 0;
    unsigned outside = operator ? 0x70000000 : geteuid();
    unsigned group = operator ? 0x70000000 : getegid();
    check(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), "socketpair");
    if (operator)
        root = clone_tree(AT_FDCWD, arguments[1], 0);
    struct clone_args how = {
        .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
                 (wanted("net") ? CLONE_NEWNET : 0) | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        .pidfd = (uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = syscall(SYS_clone3, &how, sizeof how);
    check(pid >= 0, "clone3");
    if (pid == 0) {
        close(channel[0]);
        if (root < 0)
            root = clone_tree(AT_FDCWD, arguments[1], 0);
        child(channel[1], root, arguments + 2);
    }
    close(channel[1]);
    char path[64], map[64];
    snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
    put(path, "deny");
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    snprintf(map, sizeof map, "%d %u 1", INSIDE, outside);
    put(path, map);
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    snprintf(map, sizeof map, "%d %u 1", INSIDE, group);
    put(path, map);
    check(write(channel[0], "m", 1) == 1, "channel");
    int status;
    check(waitpid(pid, &status, 0) == pid, "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
