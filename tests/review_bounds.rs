//! What a jail's changes may take: of the host's disk, of jailmk's memory, of the room for its own notes.

mod jail;

use std::fs;

use jail::workspace::{changes, need_overlay, reviewed, reviewed_with};
use jail::{Jail, is_root, need, tools};

#[test]
fn more_paths_than_can_be_reviewed_can_only_be_discarded() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.sh("echo x >kept").succeeded();
    // More than 64 MiB of paths.
    let script =
        "d=$(head -c 250 /dev/zero | tr '\\0' d); while [ $((n += 1)) -le 15 ]; do mkdir $d; cd $d; done
                  n=0; while [ $((n += 1)) -le 18000 ]; do : >$n; done";
    let told = "cannot review the changes: they are of more than 500000 paths, or more than 64 MiB of paths";
    let ran = jail.sh(script).succeeded();
    assert!(ran.stderr.contains(told), "{ran}");
    for command in ["diff", "apply", "enter"] {
        let ran = jail.jailmk(command, &[]);
        assert!(
            ran.status != 0 && ran.stderr.contains(told) && ran.stderr.contains("jailmk discard"),
            "{ran}"
        );
    }
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(jail.prints("ls"), "");
    assert_eq!(changes(&jail), Vec::<String>::new());
}

#[test]
fn a_changed_path_takes_little_memory_to_be_reviewed() {
    if !need_overlay() {
        return;
    }
    const COUNT: u64 = 20_000;
    // What the largest of its children took, in KiB.
    let peak = "exec python3 -c 'import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)' \"$@\"";
    let jail = reviewed().by_shell(peak);
    let peak = |rest: &[&str]| -> u64 {
        jail.jailmk("diff", rest).succeeded().stdout.trim().parse().expect("a number")
    };
    jail.sh("true").succeeded();
    let none = peak(&[]);
    let script = "d=$(head -c 200 /dev/zero | tr '\\0' d)
                  while [ $((n += 1)) -le COUNT ]; do : >$d$n; done";
    let entered = jail.sh(&script.replace("COUNT", &COUNT.to_string())).succeeded();
    let entered: u64 = entered.stdout.trim().parse().expect("a number");
    for took in [peak(&[]), entered] {
        let each = took.saturating_sub(none) * 1024 / COUNT;
        assert!(each < 1500, "{each} bytes for each path");
    }
}

#[test]
fn what_lies_deep_counts_as_everything_else() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with(&format!("{}[limits]\ndisk = \"4M\"", tools()));
    let script = "while [ $((n += 1)) -lt 400 ]; do mkdir d; cd d; done
                  for i in 1 2 3 4 5 6 7 8; do head -c 3000000 /dev/zero >$i; sleep 0.3; done; sleep 12";
    let ran = jail.sh(script).ended(137);
    let told = "jailmk: killed: disk 4 MiB, the changes took ";
    assert!(ran.complaints().iter().any(|line| line.starts_with(told)), "{ran}");
}

#[test]
fn what_cannot_be_looked_at_counts_by_what_the_file_system_loses() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with(&format!("{}[limits]\ndisk = \"16M\"", tools()));
    let script = "mkdir no; exec 3>no/3 4>no/4 5>no/5 6>no/6 7>no/7 8>no/8 9>no/9; chmod MODE no
                  for i in 3 4 5 6 7 8 9; do head -c 15000000 /dev/zero >&$i; sleep 0.3; done; sleep 12";
    for mode in ["000", "400"] {
        let ran = jail.sh(&script.replace("MODE", mode)).ended(137);
        let told = "jailmk: killed: disk 16 MiB, the changes ";
        assert!(ran.complaints().iter().any(|line| line.starts_with(told)), "{ran}");
        jail.jailmk("discard", &[]).succeeded();
    }
    // Which is no reason by itself. What others write to the disk meanwhile counts as well.
    let jail = reviewed_with(&format!("{}[limits]\ndisk = \"8G\"", tools()));
    jail.sh("mkdir no; echo x >no/f; chmod 000 no; sleep 1").succeeded();
}

#[test]
fn what_is_on_the_disk_once_counts_once() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with(&format!("{}[limits]\ndisk = \"4M\"", tools()));
    // Links, holes, and what is gone again.
    let script = "head -c 2000000 /dev/urandom >a; ln a b; ln a c; truncate -s 4M hole
                  for i in 1 2 3; do head -c 1500000 /dev/urandom >d; rm d; done; sleep 1";
    jail.sh(script).succeeded();
    assert_eq!(changes(&jail), ["added    a", "added    b", "added    c", "added    hole"]);
}

/// Runs a script in a jail whose state and changes have a tmpfs with these options, and then the steps: what they
/// print, each behind its words.
fn on_a_disk(options: &str, script: &str, steps: &str) -> Option<(Jail, String)> {
    let release = nix::sys::utsname::uname().expect("uname");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let has = version >= (6, 6);
    if !need_overlay() || !need("an overlay on tmpfs (Linux 6.6)", has, &["host", "uml", "6.1"]) {
        return None;
    }
    // For root's jails the namespace of another user is another host.
    let user = if is_root() { "" } else { "--user --map-root-user" };
    let jail = reviewed().fresh_state().by_shell(&format!(
        "exec unshare {user} --mount sh -c '
         mkdir -p \"$JAILMK_STATE\" && mount -t tmpfs -o mode=700,{options} none \"$JAILMK_STATE\" || exit 9
         work=../work; jailmk() {{ echo \"+ $*\"; local verb=$1; shift; \"$JAILMK\" $verb \"$SPEC\" \"$@\" 2>&1; }}
         JAILMK=$1 SPEC=$3; \"$@\" >/dev/null 2>&1
         {steps}' sh \"$@\""
    ));
    for name in ["a", "b", "c"] {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    let ran = jail.sh(script).succeeded();
    Some((jail, ran.stdout))
}

#[test]
fn a_jail_that_fills_the_disk_cannot_keep_its_changes_from_being_looked_at_applied_and_dropped() {
    let full = "echo jail >a; echo jail >b; echo jail >c; dd if=/dev/zero of=big bs=1M";
    let steps = "jailmk diff; jailmk apply -- b; jailmk discard -- a; jailmk discard -- big; jailmk diff; jailmk apply
                 jailmk enter -- sh -c \"cat a b c\" | grep -v weaker";
    let Some((jail, told)) = on_a_disk("size=24M", full, steps) else { return };
    let expected = "+ diff\nchanged  a\nchanged  b\nadded    big\nchanged  c\n\
                    + apply -- b\nchanged  b\n\
                    + discard -- a\nchanged  a\n\
                    + discard -- big\nadded    big\n\
                    + diff\nchanged  c\n\
                    + apply\nchanged  c\n\
                    + enter -- sh -c cat a b c\nhost\njail\njail\n";
    assert_eq!(told, expected);
    let host = ["a", "b", "c"].map(|name| fs::read_to_string(jail.place.join("work").join(name)).ok());
    assert_eq!(host, ["host\n", "jail\n", "jail\n"].map(|text| Some(text.to_owned())));
}

#[test]
fn a_jail_that_takes_every_inode_of_the_disk_cannot_either() {
    let full = "echo jail >b; echo x >new; i=0; while : >f$i; do i=$((i + 1)); done 2>/dev/null; :";
    let steps = "jailmk diff | grep -v \" f\"; jailmk apply -- b; jailmk discard -- new; jailmk apply | grep -c \" f\"
                 jailmk diff";
    let Some((_, told)) = on_a_disk("nr_inodes=500", full, steps) else { return };
    assert!(told.contains("+ apply -- b\nchanged  b\n+ discard -- new\nadded    new\n"), "{told}");
    assert!(told.ends_with("+ diff\n"), "{told}");
}

#[test]
fn what_no_room_is_left_to_write_down_can_be_looked_at_and_dropped_and_is_told_from_the_hosts_changes() {
    // More records than the room that is kept for them holds.
    let full =
        "echo jail >a; echo jail >b; : >empty; p=$(printf %0200d 0); d=$p/$p/$p/$p/$p; mkdir -p $d; i=0
                while [ $i -lt 700 ]; do : >$d/$i; i=$((i + 1)); done; dd if=/dev/zero of=big bs=1M";
    let steps = "few() { grep -v -e \"^added    000\" -e \"^deleted  000\" | sed \"s/write .*: ENOSPC/write PATH: ENOSPC/\"; }
                 jailmk diff | few; jailmk apply -- b | few; jailmk enter -- : | few
                 echo host >>$work/a; jailmk discard -- empty | few; jailmk diff | few
                 jailmk discard -- big | few; jailmk apply -- a b | few; jailmk diff | few";
    let Some((jail, told)) = on_a_disk("size=24M", full, steps) else { return };
    let refused = "jailmk: cannot write PATH: ENOSPC: No space left on device\n\
                   hint: make room on this disk: `jailmk discard` drops all changes of the jail, `jailmk discard SPEC -- PATH` some\n";
    let conflict = told.lines().find(|line| line.starts_with("changed  a   [")).unwrap_or_default();
    let left = told.lines().find(|line| line.starts_with("jailmk: left a: ")).unwrap_or_default();
    assert!(conflict.contains("conflict") && left.contains("conflict"), "{told}");
    let hints: Vec<&str> = told.lines().filter(|line| line.starts_with("hint: `")).collect();
    let hints = hints.join("\n");
    let expected = format!(
        "+ diff\nchanged  a\nchanged  b\nadded    big\nadded    empty\n\
         + apply -- b\n{refused}\
         + enter -- :\n{refused}\
         + discard -- empty\nadded    empty\n\
         + diff\n{conflict}\nchanged  b\nadded    big\n\
         + discard -- big\nadded    big\n\
         + apply -- a b\nchanged  b\n{left}\n{hints}\n\
         + diff\n{conflict}\n"
    );
    assert_eq!(told, expected);
    assert_eq!(fs::read_to_string(jail.place.join("work/b")).ok().as_deref(), Some("jail\n"));
}
