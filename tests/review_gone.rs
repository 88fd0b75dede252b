//! What specs that are gone have left: it is told, looked at, dropped and cleared away.

mod jail;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use jail::workspace::{need_overlay, reviewed};
use jail::{Jail, Ran, binary, run};
use serde_json::Value;

/// A command without a spec, in the state of this jail.
fn jailmk(jail: &Jail, arguments: &[&str]) -> Ran {
    let mut command = Command::new(binary());
    command.args(arguments).env_clear().env("JAILMK_STATE", jail.state_path());
    run(command)
}

/// The directories for reviews in the state.
fn directories(jail: &Jail) -> Vec<PathBuf> {
    let entries = fs::read_dir(jail.state_path().join("review")).expect("read the state");
    entries.map(|entry| entry.expect("read the state").path()).collect()
}

fn remove_spec(jail: &Jail) {
    fs::remove_file(jail.spec_path()).expect("remove the spec");
}

#[test]
fn the_changes_of_a_spec_that_is_gone_are_told_looked_at_and_dropped() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed().fresh_state();
    jail.sh("echo x >a; echo y >.bashrc").succeeded();
    remove_spec(&jail);
    let spec = jail.spec_path().display().to_string();
    let told = jailmk(&jail, &["status"]).succeeded().stdout;
    assert!(told.ends_with(&format!(" by {spec}, which is gone\n")), "{told}");
    let json: Value = serde_json::from_str(&jailmk(&jail, &["status", "--json"]).stdout).expect("JSON");
    assert_eq!(json[0]["spec_gone"], true);

    let ran = jail.jailmk("diff", &[]).succeeded();
    assert!(ran.stdout.contains("added    .bashrc   [held back: shell start file"), "{ran}");
    assert!(ran.stderr.contains("the spec is gone"), "{ran}");
    // What the spec protected is not known: nothing is brought over.
    jail.jailmk("apply", &[]).refused(1, "cannot find the spec");
    assert!(!jail.place.join("work/a").exists());
    assert_eq!(jail.jailmk("discard", &["--", "a"]).succeeded().stdout, "added    a\n");
    assert_eq!(jail.jailmk("discard", &[]).succeeded().stdout, "discarded all changes\n");
    assert_eq!(jailmk(&jail, &["status"]).succeeded().stdout, "");
    // Now it is as any path where no spec is.
    jail.jailmk("discard", &[]).refused(1, "cannot find the spec");
    jail.jailmk("diff", &[]).refused(1, "cannot find the spec");
}

#[test]
fn changes_whose_workspace_is_gone_with_the_spec_can_be_dropped() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed().fresh_state();
    jail.sh("echo x >a").succeeded();
    remove_spec(&jail);
    fs::remove_dir_all(jail.place.join("work")).expect("remove the workspace");
    let told = jailmk(&jail, &["status"]).succeeded().stdout;
    assert!(told.contains("changes that cannot be read") && told.contains("which is gone"), "{told}");
    jailmk(&jail, &["gc"]).succeeded();
    assert_eq!(directories(&jail).len(), 1, "there are changes");
    assert_eq!(jail.jailmk("discard", &[]).succeeded().stdout, "discarded all changes\n");
    assert_eq!(jailmk(&jail, &["status"]).succeeded().stdout, "");
    jailmk(&jail, &["gc"]).succeeded();
    assert_eq!(directories(&jail).len(), 0);
}

#[test]
fn of_several_workspaces_that_of_the_callers_directory_is_meant() {
    if !need_overlay() {
        return;
    }
    let jail = Jail::tools("[workspace]\nmode = \"review\"\npath = \".\"\n").fresh_state();
    let elsewhere = |directory: &str, subcommand: &str, rest: &[&str]| {
        let directory = jail.place.directory(directory);
        let rest: Vec<&std::ffi::OsStr> = rest.iter().map(std::ffi::OsStr::new).collect();
        let mut command = jail.command(subcommand, &rest);
        command.current_dir(directory);
        run(command)
    };
    for directory in ["one", "two"] {
        elsewhere(directory, "enter", &["--", "sh", "-c", "echo x >a"]).succeeded();
    }
    remove_spec(&jail);
    elsewhere("three", "discard", &[]).refused(1, "cannot choose among the changes by");
    elsewhere("two", "discard", &[]).succeeded();
    let told = jailmk(&jail, &["status"]).succeeded().stdout;
    assert!(told.contains("/one by ") && !told.contains("/two by "), "{told}");
    // Where one is left, there is nothing to choose.
    elsewhere("three", "discard", &[]).succeeded();
    assert_eq!(jailmk(&jail, &["status"]).succeeded().stdout, "");
}

#[test]
fn gc_clears_away_what_a_spec_that_is_gone_left_without_changes() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed().fresh_state();
    jail.sh("true").succeeded();
    assert_eq!(directories(&jail).len(), 1);
    // The spec is there.
    jailmk(&jail, &["gc"]).succeeded();
    assert_eq!(directories(&jail).len(), 1);
    // A spec of its own in the same state, with a change.
    let other = reviewed().state_of(&jail);
    other.sh("echo x >a").succeeded();
    // And one that is in use.
    let used = reviewed().state_of(&jail);
    let running = used.start("echo ready; read line").ready();
    for jail in [&jail, &other, &used] {
        remove_spec(jail);
    }
    let line = format!("remove the workspace of {}: it holds no changes\n", jail.spec_path().display());
    let ran = jailmk(&jail, &["gc", "--dry-run"]).succeeded();
    assert!(ran.stdout.contains(&line), "{ran}");
    assert_eq!(ran.stdout.matches("remove the workspace").count(), 1, "{ran}");
    assert_eq!(directories(&jail).len(), 3);
    let json: Value =
        serde_json::from_str(&jailmk(&jail, &["gc", "--json"]).succeeded().stdout).expect("JSON");
    assert_eq!(json["reviews"], serde_json::json!([jail.spec_path().display().to_string()]));
    assert_eq!(directories(&jail).len(), 2);
    assert!(jailmk(&jail, &["status"]).succeeded().stdout.contains(": 1 change to "));
    let mut running = running;
    running.say(b"\n");
    running.end().succeeded();
    jailmk(&jail, &["gc"]).succeeded();
    assert_eq!(directories(&jail).len(), 1, "the one that was in use has gone");
    // Emptied by hand, and then left.
    other.jailmk("discard", &[]).succeeded();
    jailmk(&jail, &["gc"]).succeeded();
    assert_eq!(directories(&jail).len(), 0);
}

#[test]
fn a_spec_that_comes_back_has_its_changes_again() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed().fresh_state();
    jail.sh("echo x >a").succeeded();
    let text = fs::read(jail.spec_path()).expect("read the spec");
    remove_spec(&jail);
    jailmk(&jail, &["gc"]).succeeded();
    fs::write(jail.spec_path(), text).expect("write the spec");
    assert_eq!(jail.jailmk("apply", &[]).succeeded().stdout, "added    a\n");
    // And after all was dropped, the next jail begins anew.
    jail.sh("echo x >b").succeeded();
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(jail.jailmk("diff", &[]).succeeded().stdout, "");
    jail.sh("echo x >c").succeeded();
    assert_eq!(jail.jailmk("diff", &[]).succeeded().stdout, "added    c\n");
}
