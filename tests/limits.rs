//! Limits are felt, through the binary: by cgroup v2 where the kernel has it, by rlimits everywhere.

mod jail;

use std::fs;
use std::path::Path;

use jail::{Jail, has_cgroup_v2, has_landlock, need, need_cgroup_v2, need_landlock, probe, runs};

/// Every cgroup of the jail that [`limited`] makes under this name.
fn leaves(name: &str) -> Vec<String> {
    fn walk(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path().display().to_string());
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut found);
    found.retain(|path| path.contains(&format!("limits-test-{}-{name}-", std::process::id())));
    found
}

/// A jail with these limits, whose cgroup can be told from others'.
fn limited(name: &str, limits: &str) -> Jail {
    let process = std::process::id();
    Jail::spec(format!("name = \"limits-test-{process}-{name}\"\n{}[limits]\n{limits}\n", jail::tools()))
}

#[test]
fn a_process_that_takes_more_memory_than_it_may_is_killed_and_enter_says_so() {
    if !need_cgroup_v2() {
        return;
    }
    let jail = limited("memory", "memory = \"64M\"");
    // tail keeps what it reads until there is a line.
    let ran = jail.sh("tail -n 1 /dev/zero; echo survived").ended(137);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("killed: memory 64 MiB, peak 64 MiB"), "{ran}");
    assert_eq!(leaves("memory"), Vec::<String>::new());
}

#[test]
fn memory_that_is_too_little_to_make_the_jail_is_told_and_leaves_nothing() {
    if !need_cgroup_v2() {
        return;
    }
    for memory in ["4K", "64K", "128K", "256K"] {
        let ran = limited("little", &format!("memory = \"{memory}\"")).sh("tail -n 1 /dev/zero");
        assert!([125, 137].contains(&ran.status), "{memory}: {ran}");
        assert!(
            ran.stderr.contains("jailmk: killed: memory ") || ran.stderr.contains("ENOMEM"),
            "{memory}: {ran}"
        );
        assert_eq!(leaves("little"), Vec::<String>::new());
    }
}

#[test]
fn tmpfs_counts_as_memory() {
    if !need_cgroup_v2() {
        return;
    }
    let ran =
        limited("tmpfs", "memory = \"32M\"\ndisk = \"1G\"").sh("dd if=/dev/zero of=/tmp/a bs=1M count=100");
    assert_eq!(ran.status, 137, "{ran}");
}

#[test]
fn the_jail_as_a_whole_dies_for_want_of_memory() {
    if !need_cgroup_v2() {
        return;
    }
    let ran = limited("group", "memory = \"64M\"").sh("sleep 82.25 & tail -n 1 /dev/zero & wait").ended(137);
    assert!(ran.stderr.contains("killed: memory"), "{ran}");
    assert!(!runs("sleep\x0082.25"));
}

#[test]
fn the_status_tells_of_memory() {
    if !need_cgroup_v2() {
        return;
    }
    let jail =
        limited("status", "memory = \"64M\"").option("--json-status-fd=3").by_shell("exec \"$@\" 3>status");
    jail.sh("tail -n 1 /dev/zero").ended(137);
    let text = fs::read_to_string(jail.place.join("here/status")).expect("read the status");
    let end: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(end["oom-killed"], true, "{text}");
    let peak = end["memory-peak"].as_u64().expect("a peak");
    assert!((48 << 20..=64 << 20).contains(&peak), "{text}");
}

#[test]
fn a_fork_storm_stops_at_processes() {
    if !need_cgroup_v2() {
        return;
    }
    let ran = limited("storm", "processes = 20")
        .sh("i=0; while [ $i -lt 40 ]; do sleep 83.25 & i=$((i + 1)); done 2>/dev/null; echo all");
    assert!(!ran.stdout.contains("all") && ran.status != 0, "{ran}");
    assert!(ran.stderr.contains("limited: processes 20"), "{ran}");
    assert!(!runs("sleep\x0083.25"));
    assert_eq!(leaves("storm"), Vec::<String>::new());
}

#[test]
fn half_a_processor_gives_half_the_time() {
    if !need_cgroup_v2() {
        return;
    }
    let jail = limited("cpus", "cpus = 0.5").option("--json-status-fd=3").by_shell("exec \"$@\" 3>status");
    let jail = jail.option("--timeout=3s");
    jail.sh("while :; do :; done").ended(124);
    let text = fs::read_to_string(jail.place.join("here/status")).expect("read the status");
    let end: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let used = end["cpu-usec"].as_u64().expect("processor time");
    // Of at least 3 s: half would be 1.5 s. A busy machine gives less, and never more.
    assert!((100_000..2_200_000).contains(&used), "{text}");
}

#[test]
fn the_cgroup_shows_its_limits_and_is_gone_afterwards() {
    if !need_cgroup_v2() {
        return;
    }
    let jail = limited("files", "memory = \"128M\"\nprocesses = 77\ncpus = 1.5");
    let running = jail.start("echo ready; cat").ready();
    let found = leaves("files");
    assert_eq!(found.len(), 1, "{found:?}");
    let read = |name: &str| fs::read_to_string(Path::new(&found[0]).join(name)).unwrap_or_default();
    assert_eq!(read("memory.max").trim(), (128 << 20).to_string());
    assert_eq!(read("pids.max").trim(), "77");
    assert_eq!(read("cpu.max").trim(), "150000 100000");
    assert_eq!(read("memory.oom.group").trim(), "1");
    running.end().succeeded();
    assert_eq!(leaves("files"), Vec::<String>::new());
}

#[test]
fn the_cgroup_of_a_killed_supervisor_goes_with_the_next_start() {
    if !need_cgroup_v2() {
        return;
    }
    let jail = limited("swept", "memory = \"128M\"");
    let running = jail.start("echo ready; sleep 84.25").ready();
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.end().ended(-9);
    jail::until("the jail is gone", || !runs("sleep\x0084.25"));
    jail.prints("true");
    assert_eq!(leaves("swept"), Vec::<String>::new());
}

#[test]
fn the_jail_sees_itself_at_the_top_of_the_hierarchy() {
    if !need_cgroup_v2() {
        return;
    }
    assert_eq!(limited("view", "memory = \"128M\"").prints("cat /proc/self/cgroup"), "0::/\n");
}

#[test]
fn a_written_limit_that_cannot_be_had_is_refused() {
    if !need(
        "a host without cgroup v2",
        jail::kernel() == "host" && !has_cgroup_v2(),
        &["host", "uml", "6.1", "6.12"],
    ) {
        return;
    }
    for limit in ["memory = \"64M\"", "swap = \"1M\"", "cpus = 1", "processes = 9"] {
        let ran = limited("refused", limit).sh("true").refused(125, "cgroup");
        assert!(ran.stderr.contains("degrade = [\"cgroup\"]"), "{ran}");
    }
}

#[test]
fn a_written_limit_may_be_missing_when_the_spec_says_so() {
    if !need("a host without cgroup v2", !has_cgroup_v2(), &["host", "uml", "6.1", "6.12"]) {
        return;
    }
    let landlock = if has_landlock() { "" } else { ", \"landlock\"" };
    let ran = Jail::tools(format!("[limits]\nmemory = \"64M\"\nprocesses = 50\n[hardening]\ndegrade = [\"cgroup\"{landlock}]\nlandlock = \"required\"\n"))
        .sh("cat /proc/self/limits")
        .succeeded();
    assert_eq!(ran.stderr.lines().filter(|line| line.contains("cgroup")).count(), 1, "{ran}");
    assert!(ran.stderr.contains("none bounds shared memory"), "{ran}");
    assert!(
        ran.stdout.lines().any(|line| line.starts_with("Max processes") && line.contains(" 50 ")),
        "{ran}"
    );
    assert!(
        ran.stdout.lines().any(|line| line.starts_with("Max data size") && line.contains("67108864")),
        "{ran}"
    );
}

#[test]
fn lower_hard_limits_of_the_caller_hold_and_are_no_error() {
    for (option, name, value) in [("--nproc", "Max processes", 1000), ("--data", "Max data size", 512 << 20)]
    {
        let jail = Jail::small().by_shell(&format!("exec prlimit {option}={value}:{value} \"$@\""));
        let limits = jail.prints("cat /proc/self/limits");
        let line = limits.lines().find(|line| line.starts_with(name)).expect("a line");
        let hard = line[name.len()..].split_whitespace().nth(1);
        assert_eq!(hard, Some(value.to_string().as_str()), "{limits}");
    }
}

#[test]
fn a_jail_leaves_signals_and_timers_to_the_callers_other_programs() {
    let limits = Jail::small().prints("cat /proc/self/limits");
    let line = limits.lines().find(|line| line.starts_with("Max pending signals")).expect("a line");
    let values: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(values.len() == 2 && values.iter().all(|value| *value <= 4096), "{line}");
}

#[test]
fn a_process_may_open_as_many_files_as_the_spec_says() {
    // dup2(2)
    let [last, next] = [("33 0 19", "19"), ("33 0 20", "EBADF")];
    probe::expect(&probe::jail("[limits]\nopen_files = 20\n"), &[last, next]);
}

#[test]
fn the_places_of_tmpfs_are_taken_out_of_disk() {
    let sections =
        "directories = [\"/srv/data\"]\n[tmpfs]\n\"/srv/data\" = \"3M\"\n[limits]\ndisk = \"4M\"\n";
    let fill =
        "dd if=/dev/zero of=/tmp/a bs=64K 2>/dev/null; dd if=/dev/zero of=/srv/data/a bs=64K 2>/dev/null
                stat -c %s /tmp/a /srv/data/a";
    assert_eq!(Jail::tools(sections).prints(fill), format!("{}\n{}\n", 1 << 20, 3 << 20));
    let ran = Jail::tools(sections.replace("4M", "3M")).sh("true");
    ran.refused(125, "cannot divide `disk`: of 3 MiB the places of [tmpfs] take 3 MiB");
}

#[test]
fn the_weight_is_the_kernels() {
    if !need_cgroup_v2() {
        return;
    }
    let running = limited("weight", "weight = 37").start("echo ready; cat").ready();
    let found = leaves("weight");
    assert_eq!(fs::read_to_string(Path::new(&found[0]).join("cpu.weight")).unwrap_or_default(), "37\n");
    running.end().succeeded();
}

#[test]
fn the_status_tells_what_the_kernel_counted() {
    if !need_cgroup_v2() {
        return;
    }
    let jail =
        limited("counted", "processes = 20").option("--json-status-fd=3").by_shell("exec \"$@\" 3>status");
    let script = "for i in 1 2 3 4 5; do sleep 0.2 & done; wait
                  i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; echo ready; cat";
    let running = jail.start(script).ready();
    let leaf = leaves("counted").pop().expect("a leaf");
    let counts = |file: &str| fs::read_to_string(Path::new(&leaf).join(file)).is_ok();
    let [processes, swap] = ["pids.peak", "memory.swap.peak"].map(counts);
    let pressure =
        ["memory", "cpu", "io"].map(|resource| (resource, counts(&format!("{resource}.pressure"))));
    running.end().succeeded();
    let text = fs::read_to_string(jail.place.join("here/status")).expect("read the status");
    let end: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert!(end["cpu-usec"].as_u64().is_some_and(|time| time > 0), "{text}");
    assert_eq!(end["forks-refused"], 0, "{text}");
    let peak = end["processes-peak"].as_u64();
    assert!(
        if processes { peak.is_some_and(|peak| (7..20).contains(&peak)) } else { peak.is_none() },
        "{text}"
    );
    assert_eq!(end["swap-peak"].as_u64(), swap.then_some(0), "{text}");
    for (resource, counted) in pressure {
        assert_eq!(end["pressure"][resource]["some-usec"].is_u64(), counted, "{resource}: {text}");
    }
}

#[test]
fn no_file_may_be_larger_than_disk() {
    let jail =
        Jail::tools("[workspace]\nmode = \"direct\"\npath = \"PLACE/work\"\n[limits]\ndisk = \"2M\"\n");
    jail.place.directory("work");
    let ran = jail.sh("trap '' XFSZ; dd if=/dev/zero of=file bs=64K count=100");
    assert!(ran.stderr.contains("File too large"), "{ran}");
    assert_eq!(fs::metadata(jail.place.join("work/file")).expect("look at a file").len(), 2 << 20);
}

#[test]
fn a_soft_limit_of_the_caller_on_open_files_stops_no_jail_and_is_not_the_commands() {
    let mounts: String =
        (0..60).map(|n| format!("[[mount]]\nfrom = \"PLACE/here\"\nto = \"/srv/{n}\"\n")).collect();
    let jail =
        Jail::tools(format!("{mounts}[limits]\nopen_files = 500\n")).by_shell("ulimit -S -n 64; exec \"$@\"");
    assert_eq!(jail.prints("ulimit -S -n; ulimit -H -n; ls /srv | wc -l"), "500\n500\n60\n");
}

#[test]
fn want_of_descriptors_is_told_as_such_and_not_as_a_change_of_the_tree() {
    let mut jail = Jail::tools("files = [{ content = \"x\", to = \"/srv/1/2/3/4/5/6/7/8/x\" }]\n");
    jail.jailmk("build", &[]).succeeded();
    let mut told = 0;
    for limit in 8..32 {
        jail = jail.by_shell(&format!("ulimit -n {limit}; exec \"$@\""));
        for ran in [jail.sh("true"), jail.jailmk("verify", &[])] {
            assert!(ran.status == 0 || ran.stderr.contains("Too many open files"), "{limit}: {ran}");
            assert!(!ran.stderr.contains("cannot trust") && !ran.stdout.contains("/srv"), "{limit}: {ran}");
            told += usize::from(ran.stderr.contains("jailmk: cannot check "));
        }
    }
    assert!(told > 0, "no limit was short of what the check takes");
}

#[test]
fn the_callers_limit_of_file_sizes_is_told_by_jailmk_and_ends_the_command_as_ever() {
    let jail = Jail::tools("").fresh_state().by_shell("ulimit -f 0; exec \"$@\"");
    let ran = jail.sh("true").ended(125);
    assert!(ran.stderr.contains("jailmk: cannot ") && ran.stderr.contains("File too large"), "{ran}");
    if !need_landlock(1) {
        // jailmk runs from a copy there, which is such a file itself.
        return;
    }
    let jail = Jail::small().by_shell("ulimit -f 1; exec \"$@\"");
    jail.sh("exec dd if=/dev/zero of=/tmp/large bs=4096 count=1").ended(128 + 25);
}
