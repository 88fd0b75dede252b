/* Makes system calls in a jail and tells what came of them.
 *
 * Each line of standard input is a program of its own process: CALL ARGUMENT... [/ CALL ARGUMENT...]...
 * An argument is a number, @TEXT (a pointer to the text), %SIZE (to that many zero bytes), =HEX (to these
 * bytes) or $N (what the N-th call of the line returned). For each line one line is printed: what the
 * last call returned, or the name of its error, or of the signal that ended the process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#define CALL(name) { #name, SYS_##name }

static const struct { const char *name; long number; } calls[] = {
    CALL(accept), CALL(add_key), CALL(bind), CALL(bpf), CALL(chmod), CALL(chroot), CALL(clone),
    CALL(clone3), CALL(connect), CALL(creat), CALL(delete_module), CALL(fchmod), CALL(fchmodat),
    CALL(fcntl), CALL(finit_module), CALL(fsmount), CALL(fsopen), CALL(getpid), CALL(getppid), CALL(getuid),
    CALL(geteuid), CALL(init_module), CALL(io_uring_setup), CALL(ioctl), CALL(ioprio_set), CALL(kexec_load), CALL(keyctl),
    CALL(kill), CALL(listen), CALL(memfd_create), CALL(mkdir), CALL(mknod), CALL(mount),
    CALL(mount_setattr), CALL(move_mount), CALL(name_to_handle_at), CALL(open), CALL(openat2),
    CALL(open_by_handle_at), CALL(open_tree), CALL(perf_event_open), CALL(personality),
    CALL(pidfd_getfd), CALL(pidfd_open), CALL(pivot_root), CALL(prlimit64), CALL(process_vm_readv), CALL(ptrace),
    CALL(quotactl), CALL(reboot), CALL(renameat2), CALL(request_key),
    CALL(sched_setaffinity), CALL(sched_setattr), CALL(sched_setparam), CALL(sched_setscheduler),
    CALL(seccomp), CALL(sendto), CALL(setgid), CALL(setgroups), CALL(sethostname), CALL(setpriority),
    CALL(setns), CALL(settimeofday), CALL(setuid), CALL(setxattr), CALL(socket), CALL(swapon), CALL(syslog),
    CALL(umount2), CALL(unshare), CALL(userfaultfd), CALL(vhangup),
#ifdef __x86_64__
    CALL(iopl), CALL(ioperm), CALL(modify_ldt),
#endif
};

static long number_of(const char *name) {
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(calls[i].name, name)) return calls[i].number;
    char *end;
    long number = strtol(name, &end, 0);
    if (*end) {
        printf("no call %s\n", name);
        exit(2);
    }
    return number;
}

static long argument(const char *word, const long *results) {
    switch (*word) {
    case '@': return (long)strdup(word + 1);
    case '%': return (long)calloc(1, strtoul(word + 1, NULL, 0));
    case '$': return results[atoi(word + 1)];
    case '=': {
        size_t length = strlen(word + 1) / 2;
        unsigned char *bytes = calloc(1, length + 1);
        for (size_t i = 0; i < length; i++) sscanf(word + 1 + 2 * i, "%2hhx", bytes + i);
        return (long)bytes;
    }
    default: return (long)strtoull(word, NULL, 0);
    }
}

static void run(char *line) {
    long results[16] = { 0 };
    int made = 0;
    char *word = strtok(line, " \n");
    while (word) {
        const char *name = word;
        long arguments[6] = { 0 };
        int count = 0;
        while ((word = strtok(NULL, " \n")) && strcmp(word, "/"))
            if (count < 6) arguments[count++] = argument(word, results);
        if (word) word = strtok(NULL, " \n");
        errno = 0;
#ifdef __x86_64__
        if (!strcmp(name, "int80")) {
            long result;
            __asm__ volatile("int $0x80" : "=a"(result) : "a"(arguments[0]) : "memory");
            results[made++] = result;
            continue;
        }
#endif
        results[made++] = syscall(number_of(name), arguments[0], arguments[1], arguments[2], arguments[3],
                                  arguments[4], arguments[5]);
    }
    if (made && results[made - 1] == -1) printf("%s\n", strerrorname_np(errno));
    else printf("%ld\n", made ? results[made - 1] : 0);
    fflush(stdout);
    _exit(0);
}

int main(void) {
    char line[4096];
    while (fgets(line, sizeof line, stdin)) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) run(line);
        int status;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
        if (WIFSIGNALED(status)) printf("SIG%s\n", sigabbrev_np(WTERMSIG(status)));
    }
    return 0;
}
