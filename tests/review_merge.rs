//! `jailmk apply --merge`: text that the host and the jail both changed becomes one, or stays as it is with the
//! lines named.

mod jail;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use jail::chance::Chance;
use jail::workspace::{apply, changes, need_overlay, reviewed};
use jail::{Jail, Place, Ran, need};
use jailmk::workspace::threeway;

fn read(jail: &Jail, name: &str) -> String {
    fs::read_to_string(jail.place.join("work").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What the host writes.
fn write(jail: &Jail, names: &[&str], content: &str) {
    for name in names {
        fs::write(jail.place.join("work").join(name), content).expect("write a file");
    }
}

/// The lines that say what was left: without the program's name, and without the times.
fn left(ran: &Ran) -> Vec<String> {
    let lines = ran.stderr.lines().filter_map(|line| line.strip_prefix("jailmk: left "));
    let untimed = |line: &str| match (line.find(" (the jail's is of "), line.find("Z)")) {
        (Some(start), Some(end)) => format!("{}{}", &line[..start], &line[end + 2..]),
        _ => line.to_owned(),
    };
    lines.map(untimed).collect()
}

/// Ten lines, some of them others.
fn ten(edits: &[(usize, &str)]) -> String {
    let line = |n: usize| {
        edits.iter().find(|(at, _)| *at == n).map_or(n.to_string(), |(_, text)| (*text).to_owned())
    };
    (1..=10).map(|n| line(n) + "\n").collect()
}

/// The session of a jail: the one directory that names its workspace.
fn session(jail: &Jail) -> PathBuf {
    let work = jail.place.join("work").into_os_string().into_encoded_bytes();
    let review = fs::read_dir(jail.state_path().join("review")).expect("list the sessions");
    let mut all = review.map(|entry| entry.expect("list the sessions").path());
    let mine = |path: &PathBuf| {
        let about = fs::read(path.join("about")).unwrap_or_default();
        about.split(|byte| *byte == 0).any(|field| field == work)
    };
    all.find(mine).expect("a session of this workspace")
}

/// The names of the bases that are kept.
fn bases(jail: &Jail) -> Vec<String> {
    let Ok(list) = fs::read_dir(session(jail).join("base")) else { return Vec::new() };
    let mut names: Vec<String> = list
        .map(|entry| entry.expect("list the bases").file_name().into_string().expect("hexadecimal"))
        .collect();
    names.sort();
    names
}

const BOTH: &str = "conflict: the jail changed it, and the host's has changed since the jail began";

#[test]
fn edits_of_both_sides_in_different_places_come_together() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["sub/text", "bits", "host-bits", "same"] {
        jail.place.file(format!("work/{name}"), ten(&[]));
    }
    jail.place.file("work/crlf", "a\r\nb\r\nc\r\nlast");
    jail.sh("for f in sub/text bits host-bits; do sed -i s/^9$/jail/ $f; done; chmod 755 bits
             sed -i s/^5$/both/ same; sed -i s/^c/C/ crlf")
        .succeeded();
    let host = ten(&[(2, "host")]);
    write(&jail, &["sub/text", "bits", "host-bits"], &host);
    let work = jail.place.join("work");
    fs::set_permissions(work.join("host-bits"), fs::Permissions::from_mode(0o600)).expect("chmod");
    write(&jail, &["same"], &ten(&[(5, "both"), (7, "host")]));
    write(&jail, &["crlf"], "A\r\nb\r\nc\r\nlast");

    // Unasked nothing is merged, but told that it could be.
    let ran = apply(&jail, &[]).ended(1);
    assert_eq!(left(&ran).len(), 5, "{ran}");
    assert_eq!(left(&ran)[4], format!("sub/text: {BOTH}"), "{ran}");
    assert!(ran.stderr.contains("hint: `--merge` takes both sides' lines"), "{ran}");
    assert_eq!(read(&jail, "bits"), host);

    let ran = apply(&jail, &["--merge"]).succeeded();
    assert_eq!(
        ran.stdout,
        "merged   bits\nmerged   crlf\nmerged   host-bits\nmerged   same\nmerged   sub/text\n"
    );
    let both = ten(&[(2, "host"), (9, "jail")]);
    for (name, bits) in [("sub/text", 0o644), ("bits", 0o755), ("host-bits", 0o600)] {
        assert_eq!(read(&jail, name), both, "{name}");
        let metadata = fs::metadata(work.join(name)).expect("look");
        assert_eq!(metadata.mode() & 0o7777, bits, "{name}");
        assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw(), "{name}");
    }
    assert_eq!(read(&jail, "same"), ten(&[(5, "both"), (7, "host")]));
    assert_eq!(read(&jail, "crlf"), "A\r\nb\r\nC\r\nlast");
    assert_eq!(changes(&jail), Vec::<String>::new());
    assert_eq!(bases(&jail), Vec::<String>::new());
    assert_eq!(jail.prints("cat bits; ls -A"), format!("{both}bits\ncrlf\nhost-bits\nsame\nsub\n"));
}

#[test]
fn lines_that_both_changed_are_named_and_the_host_s_file_stays() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["lines", "bits", "fine"] {
        jail.place.file(format!("work/{name}"), ten(&[]));
    }
    jail.sh(
        "sed -i -e 's/^3$/jail\\nmore/' -e s/^8$/jail/ lines; sed -i s/^9$/jail/ bits fine; chmod 755 bits",
    )
    .succeeded();
    write(&jail, &["lines"], &ten(&[(1, "host"), (3, "host"), (4, "host"), (8, "host")]));
    write(&jail, &["bits", "fine"], &ten(&[(1, "host")]));
    let work = jail.place.join("work");
    fs::set_permissions(work.join("bits"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let look = |name: &str| {
        let metadata = fs::metadata(work.join(name)).expect("look");
        (metadata.ino(), metadata.mtime_nsec(), metadata.mode(), fs::read(work.join(name)).expect("read"))
    };
    let before = ["lines", "bits"].map(look);
    let ran = apply(&jail, &["--merge"]).ended(1);
    assert_eq!(ran.stdout, "merged   fine\n", "{ran}");
    assert_eq!(
        left(&ran),
        [
            format!(
                "bits: {BOTH}; not merged: both changed its permission bits, the host to 0600, the jail to 0755"
            ),
            format!(
                "lines: {BOTH}; not merged: both changed lines 3-4 of the host's and lines 3-5 of the jail's, \
                 line 8 of the host's and line 9 of the jail's"
            ),
        ],
        "{ran}"
    );
    assert!(!ran.stderr.contains("hint: `--merge`"), "{ran}");
    assert_eq!(["lines", "bits"].map(look), before);
    assert_eq!(changes(&jail).len(), 2);
    // Still known, for another try.
    write(&jail, &["lines"], &ten(&[(1, "host")]));
    assert_eq!(apply(&jail, &["--merge", "--", "lines"]).succeeded().stdout, "merged   lines\n");
    assert_eq!(read(&jail, "lines"), "host\n2\njail\nmore\n4\n5\n6\n7\njail\n9\n10\n");
}

#[test]
fn a_conflict_that_cannot_be_merged_says_what_is_missing() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let big = "a line of thirty-one characters\n".repeat(40_000);
    for (name, content) in [
        ("during", ten(&[])),
        ("binary", "a\0b\n".to_owned()),
        ("becomes-binary", ten(&[])),
        ("large", big.clone()),
        ("grows", ten(&[])),
        ("removed", ten(&[])),
        ("deleted", ten(&[])),
        ("link", ten(&[])),
    ] {
        jail.place.file(format!("work/{name}"), content);
    }
    let mut running = jail
        .start(
            "for f in during binary becomes-binary large grows removed; do echo jail >>$f; done
             rm deleted link; ln -s during link; echo jail >made; echo ready; cat",
        )
        .ready();
    write(&jail, &["during"], &ten(&[(1, "host")]));
    running.say(b"");
    running.end();
    write(&jail, &["binary"], "A\0b\n");
    write(&jail, &["becomes-binary"], "A\0b\n");
    write(&jail, &["large"], &format!("host\n{big}"));
    write(&jail, &["grows"], &big);
    fs::remove_file(jail.place.join("work/removed")).expect("remove");
    write(&jail, &["deleted", "link", "made"], "host\n");
    let before = jail::workspace::snapshot(&jail.place.join("work"));
    let ran = apply(&jail, &["--merge"]).ended(1);
    let since = "since the jail began";
    assert_eq!(
        left(&ran),
        [
            format!("becomes-binary: {BOTH}; not merged: it is binary"),
            format!("binary: {BOTH}; not merged: it is binary"),
            format!("deleted: conflict: the jail deleted it, and the host's has changed {since}"),
            format!("during: {BOTH}; not merged: the host's had changed before the jail's end"),
            format!("grows: {BOTH}; not merged: it is larger than 1 MiB"),
            format!("large: {BOTH}; not merged: it is larger than 1 MiB"),
            format!("link: conflict: the jail made it a symlink, and the host's has changed {since}"),
            "made: conflict: the jail added it, and the host has made one as well".to_owned(),
            format!("removed: conflict: the jail changed it, and the host's was removed {since}"),
        ],
        "{ran}"
    );
    assert_eq!(jail::workspace::snapshot(&jail.place.join("work")), before);
}

#[test]
fn both_sides_of_a_conflict_are_told_with_their_times() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let file = jail.place.file("work/file", "host\n");
    jail.sh("echo jail >file; chmod 700 .; chmod 600 file").succeeded();
    fs::write(&file, "host again\n").expect("write");
    let ran = apply(&jail, &["--", "file"]).ended(1);
    let line = ran.stderr.lines().next().expect("a line").to_owned();
    let times: Vec<&str> = line.split(['(', ')', ' ', ',']).filter(|word| word.ends_with('Z')).collect();
    let [of_jail, of_host] = times[..] else { panic!("{ran}") };
    assert!(of_jail.len() == 20 && of_jail <= of_host, "{ran}");
    let host = fs::metadata(&file).expect("look").ctime();
    let said = Command::new("date").args(["-u", "-d", of_host, "+%s"]).output().expect("run date");
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), host.to_string(), "{ran}");
}

#[test]
fn what_a_killed_jail_changed_can_be_merged() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/file", ten(&[]));
    jail.place.file("work/early", ten(&[]));
    let mut running = jail.start("sed -i s/^9$/jail/ file early; echo ready; cat").ready();
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.say(b"");
    drop(running);
    // Before anybody has looked, so there is no telling what the jail saw.
    write(&jail, &["early"], &ten(&[(1, "host")]));
    jail::until("the changes can be looked at", || {
        jail.jailmk("diff", &[]).status == 0 && bases(&jail).len() == 1
    });
    write(&jail, &["file"], &ten(&[(1, "host")]));
    let ran = apply(&jail, &["--merge"]).ended(1);
    assert_eq!(ran.stdout, "merged   file\n", "{ran}");
    assert_eq!(
        left(&ran),
        [format!("early: {BOTH}; not merged: the host's had changed before the jail's end")]
    );
    assert_eq!(read(&jail, "file"), ten(&[(1, "host"), (9, "jail")]));
    assert_eq!(read(&jail, "early"), ten(&[(1, "host")]));
}

#[test]
fn bases_are_kept_as_long_as_their_changes() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["a", "b", "c", "d/e", "untouched", "twin"] {
        jail.place.file(format!("work/{name}"), format!("{}{name}\n", ten(&[])));
    }
    jail.place.file("work/twin", read(&jail, "a"));
    jail.place.file("work/large", "x\n".repeat(600_000));
    jail.place.file("work/binary", "a\0b");
    jail.sh("for f in a b c d/e twin large binary new; do echo jail >>$f; done; rm untouched").succeeded();
    // Two files of the same content are one.
    let kept = bases(&jail);
    assert_eq!(kept.len(), 4);
    for name in &kept {
        let path = session(&jail).join("base").join(name);
        assert_eq!(fs::metadata(&path).expect("look").mode() & 0o777, 0o600);
        let sum = Command::new("sha256sum").arg(&path).output().expect("run sha256sum");
        assert!(String::from_utf8_lossy(&sum.stdout).starts_with(name), "{name}");
    }
    assert_eq!(fs::metadata(session(&jail).join("base")).expect("look").mode() & 0o777, 0o700);
    // What nothing names, such as what a kill left half-written, goes with the next account.
    fs::write(session(&jail).join("base/.half"), "x").expect("write");
    apply(&jail, &["--", "b"]).succeeded();
    assert_eq!(bases(&jail).len(), 3);
    jail.jailmk("discard", &["--", "d"]).succeeded();
    assert_eq!(bases(&jail).len(), 2);
    apply(&jail, &["--", "a"]).succeeded();
    assert_eq!(bases(&jail).len(), 2, "the twin has it still");
    jail.jailmk("discard", &["--", "twin"]).succeeded();
    assert_eq!(bases(&jail).len(), 1);
    apply(&jail, &[]).succeeded();
    assert!(!session(&jail).join("base").exists());

    jail.sh("for f in a b c; do echo again >>$f; done").succeeded();
    assert_eq!(bases(&jail).len(), 3);
    let path = session(&jail);
    jail.jailmk("discard", &[]).succeeded();
    assert!(!path.join("base").exists());
}

#[test]
fn a_later_jail_goes_on_from_the_same_base() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["again", "bits-first", "opened"] {
        jail.place.file(format!("work/{name}"), ten(&[]));
    }
    // Opened for writing only: nothing changed, but from now on the jail has one of its own.
    jail.sh("sed -i s/^9$/one/ again; chmod 755 bits-first; : >>opened; touch opened").succeeded();
    jail.sh("sed -i s/^7$/two/ again; sed -i s/^9$/two/ bits-first").succeeded();
    write(&jail, &["again", "bits-first", "opened"], &ten(&[(1, "host")]));
    jail.sh("sed -i s/^5$/three/ again").succeeded();
    let ran = apply(&jail, &["--merge"]).succeeded();
    assert_eq!(ran.stdout, "merged   again\nmerged   bits-first\nmerged   opened\n");
    assert_eq!(read(&jail, "again"), ten(&[(1, "host"), (5, "three"), (7, "two"), (9, "one")]));
    assert_eq!(read(&jail, "bits-first"), ten(&[(1, "host"), (9, "two")]));
    assert_eq!(read(&jail, "opened"), ten(&[(1, "host")]));
    assert_eq!(changes(&jail), Vec::<String>::new());
}

#[test]
fn what_is_left_of_a_file_taken_in_parts_can_be_merged() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let long = |edits: &[(usize, &str)]| -> String {
        let line = |n: usize| {
            edits.iter().find(|(at, _)| *at == n).map_or(n.to_string(), |(_, text)| (*text).to_owned())
        };
        (0..60).map(|n| line(n) + "\n").collect()
    };
    jail.place.file("work/long", long(&[]));
    jail.sh("sed -i -e s/^5$/five/ -e s/^50$/fifty/ long").succeeded();
    let mut running = jail::Running::start(jail.command("apply", &["-i".as_ref()]));
    running.say(b"s\ny\nn\n");
    running.end().succeeded();
    assert_eq!(read(&jail, "long"), long(&[(5, "five")]));
    write(&jail, &["long"], &long(&[(5, "five"), (30, "host")]));
    apply(&jail, &["--merge"]).succeeded();
    assert_eq!(read(&jail, "long"), long(&[(5, "five"), (30, "host"), (50, "fifty")]));
}

#[test]
fn protected_files_are_merged_when_they_are_named_and_chosen_ones_alone() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["src/a", "src/b", ".envrc"] {
        jail.place.file(format!("work/{name}"), ten(&[]));
    }
    jail.sh("sed -i s/^9$/jail/ src/a src/b .envrc").succeeded();
    write(&jail, &["src/a", "src/b", ".envrc"], &ten(&[(1, "host")]));
    let ran = apply(&jail, &["--merge", "--", "src/a", ".envrc"]).ended(1);
    assert_eq!(ran.stdout, "merged   src/a\n");
    assert_eq!(left(&ran), [".envrc: held back: environment of a directory"], "{ran}");
    assert_eq!((read(&jail, ".envrc"), read(&jail, "src/b")), (ten(&[(1, "host")]), ten(&[(1, "host")])));
    apply(&jail, &["--merge", "--protected", ".envrc", "--", ".envrc"]).succeeded();
    assert_eq!(read(&jail, ".envrc"), ten(&[(1, "host"), (9, "jail")]));
    assert_eq!(changes(&jail).len(), 1);
}

#[test]
fn a_base_that_is_gone_or_not_what_it_was_is_none() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["gone", "other"] {
        jail.place.file(format!("work/{name}"), ten(&[(3, name)]));
    }
    jail.sh("sed -i s/^9$/jail/ gone other").succeeded();
    for name in ["gone", "other"] {
        write(&jail, &[name], &ten(&[(1, "host"), (3, name)]));
    }
    let kept = session(&jail).join("base");
    for name in bases(&jail) {
        let text = fs::read_to_string(kept.join(&name)).expect("read a base");
        match text.contains("gone") {
            true => fs::remove_file(kept.join(&name)).expect("remove a base"),
            false => fs::write(kept.join(&name), ten(&[(3, "others"), (1, "host")])).expect("write a base"),
        }
    }
    let ran = apply(&jail, &["--merge"]).ended(1);
    let why = "not merged: no copy was kept of the host's as the jail saw it";
    assert_eq!(left(&ran), [format!("gone: {BOTH}; {why}"), format!("other: {BOTH}; {why}")], "{ran}");
}

#[test]
fn a_journal_of_an_earlier_version_has_no_bases_and_one_of_any_bytes_is_damaged() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/file", ten(&[]));
    jail.sh("sed -i s/^9$/jail/ file").succeeded();
    let journal = session(&jail).join("journal");
    let text = fs::read_to_string(&journal).expect("read the journal");
    let digest = bases(&jail).pop().expect("a base");
    let earlier = text.replace("jailmk journal 2", "jailmk journal 1").replace(&format!("{digest} "), "");
    assert_ne!(earlier, text);
    fs::write(&journal, &earlier).expect("write the journal");
    write(&jail, &["file"], &ten(&[(1, "host")]));
    let ran = apply(&jail, &["--merge"]).ended(1);
    let why = "not merged: no copy was kept of the host's as the jail saw it";
    assert_eq!(left(&ran), [format!("file: {BOTH}; {why}")], "{ran}");
    for bytes in [text.replace(&digest, "../../../etc/passwd"), text.replace(&digest, &digest.to_uppercase())]
    {
        fs::write(&journal, bytes).expect("write the journal");
        let ran = apply(&jail, &["--merge"]);
        assert_ne!(ran.status, 0, "{ran}");
        assert!(ran.stderr.contains("it is damaged"), "{ran}");
    }
    assert_eq!(read(&jail, "file"), ten(&[(1, "host")]));
}

#[test]
fn merging_goes_with_no_other_answer_to_conflicts() {
    let jail = reviewed();
    for other in ["--overwrite", "-i"] {
        let ran = jail.jailmk("apply", &["--merge", other]).ended(2);
        assert!(ran.stderr.contains("'--merge' cannot be used with"), "{ran}");
    }
}

/// Kills `apply --merge` at many moments: at no time is the host's file anything but what it was, or merged,
/// and the next call goes on.
#[test]
fn a_merge_that_is_killed_loses_nothing_and_goes_on() {
    if !need_overlay() {
        return;
    }
    let kills: u64 = std::env::var("JAILMK_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(40);
    let jail = reviewed();
    let names: Vec<String> = (0..20).map(|n| format!("{n}")).collect();
    let host = ten(&[(1, "host"), (5, "host too")]);
    let both = ten(&[(1, "host"), (3, "jail"), (5, "host too"), (9, "jail")]);
    let mut chance = Chance::seeded(0x2545_f491_4f6c_dd1d);
    for _ in 0..kills.div_ceil(8) {
        for name in &names {
            jail.place.file(format!("work/{name}"), ten(&[]));
        }
        jail.sh("for f in *; do sed -i -e s/^3$/jail/ -e s/^9$/jail/ $f; done").succeeded();
        names.iter().for_each(|name| write(&jail, &[name], &host));
        for _ in 0..8 {
            jail::Running::start(jail.command("apply", &["--merge".as_ref()]))
                .killed_after(Duration::from_micros(chance.below(40_000)));
            for name in &names {
                let text = read(&jail, name);
                assert!(text == host || text == both, "{name}: {text}");
            }
        }
        apply(&jail, &["--merge"]).succeeded();
        names.iter().for_each(|name| assert_eq!(read(&jail, name), both));
        let there = fs::read_dir(jail.place.join("work")).expect("list").count();
        assert_eq!((there, changes(&jail), bases(&jail)), (names.len(), Vec::new(), Vec::new()));
    }
}

/// Some lines gone, some others in the place of some; `fresh` makes a line.
fn edited(lines: &[String], chance: &mut Chance, fresh: &mut dyn FnMut() -> String) -> Vec<String> {
    let mut edited = lines.to_vec();
    for _ in 0..=chance.below(2) {
        let start = chance.index(edited.len() + 1);
        let end = start + chance.index(3).min(edited.len() - start);
        let new: Vec<String> = (0..chance.below(3)).map(|_| fresh()).collect();
        edited.splice(start..end, new);
    }
    edited
}

/// What `git merge-file` makes of three texts; `None` where it finds a conflict.
fn by_git(place: &Place, [base, host, jail]: [&str; 3]) -> Option<Vec<u8>> {
    let [base, host, jail] =
        [("base", base), ("host", host), ("jail", jail)].map(|(name, text)| place.file(name, text));
    let output = Command::new("git")
        .args(["merge-file", "-p", "-q"])
        .args([&host, &base, &jail])
        .current_dir(place.path())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", place.path())
        .output()
        .expect("run git");
    match output.status.code() {
        Some(0) => Some(output.stdout),
        Some(1..128) => None,
        _ => panic!("{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn texts_become_one_as_git_makes_them_one() {
    let has_git = Command::new("git").arg("--version").output().is_ok_and(|output| output.status.success());
    if !need("git", has_git, &[]) {
        return;
    }
    let place = Place::new();
    let mut chance = Chance::seeded(0x9e37_79b9_7f4a_7c15);
    let mut number = 0;
    let (mut clean, mut apart) = (0, 0);
    for round in 0..300 {
        // No two lines are the same, so there is one way only to find those that are shared.
        let mut fresh = || {
            number += 1;
            format!("line {number}\n")
        };
        let base: Vec<String> = (0..chance.below(25)).map(|_| fresh()).collect();
        let sides = [(); 2].map(|()| edited(&base, &mut chance, &mut fresh));
        let [mut base, mut host, mut jail] = [base.concat(), sides[0].concat(), sides[1].concat()];
        match round % 8 {
            // With no end of the last line, in one or in all of them.
            0 => host.truncate(host.len().saturating_sub(1)),
            1 => [&mut base, &mut host, &mut jail]
                .into_iter()
                .for_each(|text| text.truncate(text.len().saturating_sub(1))),
            2 => [&mut base, &mut host, &mut jail]
                .into_iter()
                .for_each(|text| *text = text.replace('\n', "\r\n")),
            _ => {}
        }
        let until = Instant::now() + Duration::from_secs(600);
        let ours = threeway::merge(base.as_bytes(), host.as_bytes(), jail.as_bytes(), until).ok();
        let git = by_git(&place, [&base, &host, &jail]);
        match ours.is_some() {
            true => clean += 1,
            false => apart += 1,
        }
        assert_eq!(ours, git, "{base:?} {host:?} {jail:?}");
    }
    assert!(clean > 100 && apart > 100, "{clean} {apart}");
}
