//! `jailmk check SPEC`: what directories, files and sockets of the host count for that a jail gets.

mod jail;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use jail::weighed::{AS_ROOT, exposure, found, points, row, total, weighed};
use jail::{Jail, has_landlock, is_root, need, need_root};
use serde_json::Value;

#[test]
fn secrets_and_sockets_in_mounts_are_named() {
    let whole = Jail::tools("[[mount]]\nfrom = \"PLACE/home\"\nto = \"/tmp/home\"\n");
    whole.place.file("home/.ssh/id_ed25519", "x");
    whole.place.file("home/.aws/credentials", "x");
    let weighed = weighed(&whole);
    let text = found(&weighed, "/tmp/home");
    for words in ["very wide", "holds ~/.ssh", "holds ~/.aws"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(exposure(&weighed, "/tmp/home") >= 4.0);
    assert!(["MEDIUM", "EXPOSED"].contains(&weighed["word"].as_str().expect("a word")), "{weighed:#}");

    // By another name, and only a part of it.
    let part = Jail::tools("[[mount]]\nfrom = \"PLACE/link\"\nto = \"/tmp/part\"\n");
    part.place.file("home/.ssh/keys/one", "x");
    std::os::unix::fs::symlink("home/.ssh/keys", part.place.join("link")).expect("make a link");
    let weighed_part = self::weighed(&part);
    assert!(found(&weighed_part, "/tmp/part").contains("is ~/.ssh"), "{weighed_part:#}");

    let agent = Jail::tools("[[mount]]\nfrom = \"PLACE/agent\"\nto = \"/tmp/agent\"\n");
    let socket = agent.place.join("agent");
    let _listener = UnixListener::bind(&socket).expect("listen");
    let unknown = self::weighed(&agent);
    assert!(found(&unknown, "/tmp/agent").contains("a socket"), "{unknown:#}");
    let agent = agent.variable("SSH_AUTH_SOCK", socket.to_str().expect("UTF-8"));
    let named = self::weighed(&agent);
    assert!(found(&named, "/tmp/agent").contains("is $SSH_AUTH_SOCK: keys"), "{named:#}");
    assert!(exposure(&named, "/tmp/agent") > exposure(&unknown, "/tmp/agent"));
}

/// The row of a mount of this path of the home, which the files are made in first.
fn mount_of(path: &str, mode: &str, files: &[&str]) -> Value {
    let spec = format!("[[mount]]\nfrom = \"PLACE/home/{path}\"\nto = \"/tmp/a\"\nmode = \"{mode}\"\n");
    let jail = Jail::tools(spec);
    for file in files {
        jail.place.file(Path::new("home").join(file), "x");
    }
    row(&weighed(&jail), "/tmp/a").clone()
}

#[test]
fn the_settings_and_keys_of_agents_are_seen_and_the_advice_is_theirs() {
    for path in [
        ".claude",
        ".codex",
        ".gemini",
        ".qwen",
        ".pi",
        ".copilot",
        ".aider",
        ".config/opencode",
        ".config/goose",
        ".cursor",
        ".continue",
    ] {
        let file = format!("{path}/settings");
        let [read, write] = ["read-only", "read-write"].map(|mode| mount_of(path, mode, &[&file]));
        assert_eq!((points(&read), points(&write)), (3.0, 6.0), "{read:#}{write:#}");
        let found = write["found"].as_str().expect("a text");
        assert!(found.contains(&format!("is ~/{path}: ")) && found.contains("hooks"), "{write:#}");
        let advice = write["advice"].as_str().expect("a text");
        assert!(advice.contains("a sign-in of its own"), "{write:#}");
        // A part of it.
        assert_eq!(points(&mount_of(&file, "read-write", &[&file])), 6.0);
    }
    for file in [".claude.json", ".aider.conf.yml"] {
        assert_eq!(points(&mount_of(file, "read-write", &[file])), 6.0, "{file}");
    }
}

#[test]
fn a_single_start_file_and_a_directory_of_programs_are_seen() {
    for file in
        [".zprofile", ".inputrc", ".vimrc", ".tmux.conf", ".gitconfig", ".config/environment.d/a.conf"]
    {
        assert_eq!(points(&mount_of(file, "read-write", &[file])), 5.0, "{file}");
        assert!(points(&mount_of(file, "read-only", &[file])) <= 0.2, "{file}");
    }
    assert_eq!(points(&mount_of(".local/bin", "read-write", &[".local/bin/x"])), 5.0);
    assert_eq!(points(&mount_of(".npmrc", "read-only", &[".npmrc"])), 2.0);
}

#[test]
fn what_the_jail_could_make_counts_as_if_it_were_there() {
    let config = mount_of(".config", "read-write", &[".config/other"]);
    let found = config["found"].as_str().expect("a text");
    assert!(found.contains("can make ~/.config/alacritty, ~/.config/autostart, "), "{found}");
    assert!(points(&config) >= 5.0, "{config:#}");
    // Of what is there, that is told.
    let found = mount_of(".config", "read-write", &[".config/autostart/a.desktop"]);
    assert!(found["found"].as_str().expect("a text").contains("holds ~/.config/autostart: "), "{found:#}");
    // Nothing comes of what is not there when it can only be read.
    assert_eq!(points(&mount_of(".config", "read-only", &[".config/other"])), 0.1);
    // Nor is there anything to be made beside it.
    assert_eq!(points(&mount_of(".config/other", "read-write", &[".config/other/x"])), 0.5);
    // Not even the directory is there.
    let jail = Jail::tools(
        "[[mount]]\nfrom = \"~/.claude\"\nto = \"/tmp/a\"\nmode = \"read-write\"\ncreate = true\n",
    );
    assert_eq!(exposure(&weighed(&jail), "/tmp/a"), 6.0);
}

#[test]
fn links_are_followed_from_both_ends() {
    let mount = |from: &str| {
        let jail = Jail::tools(format!(
            "[[mount]]\nfrom = \"PLACE/{from}\"\nto = \"/tmp/a\"\nmode = \"read-write\"\n"
        ));
        jail.place.file("data/dotfiles/claude/settings.json", "x");
        jail.place.file("data/u/.config/other/x", "x");
        symlink("data/u", jail.place.join("linked")).expect("make a link");
        symlink(jail.place.join("data/dotfiles/claude"), jail.place.join("data/u/.claude"))
            .expect("make a link");
        symlink("missing", jail.place.join("data/u/.codex")).expect("make a link");
        let home = jail.place.join("linked");
        let jail = jail.variable("HOME", home.to_str().expect("UTF-8"));
        row(&weighed(&jail), "/tmp/a").clone()
    };
    // Where the link leads.
    assert!(mount("data/dotfiles")["found"].to_string().contains("holds ~/.claude: "));
    assert_eq!(points(&mount("data/dotfiles/claude")), 6.0);
    // Where it lies, in a home that is itself a link; and one that leads nowhere can be given an end.
    let home = mount("linked");
    assert!(home["found"].to_string().contains("very wide"), "{home:#}");
    assert!(home["found"].to_string().contains("holds ~/.claude: "), "{home:#}");
    assert_eq!(points(&mount("linked/.config")), 6.0);
    assert_eq!(points(&mount("linked/.config/other")), 0.5);
}

/// A directory that goes with the test.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_root_mounts_of_a_users_home_is_weighed_as_theirs() {
    if !is_root() {
        return;
    }
    // Homes are found in /home, too: an account is not made for a test.
    let home = format!("/home/jailmk-test-{}", std::process::id());
    let _removed = Removed(home.clone());
    let made = fs::create_dir_all(format!("{home}/.claude")).is_ok();
    if !need("a /home in which root can write", made, &[]) {
        return;
    }
    fs::create_dir_all(format!("{home}/project")).expect("make a home");
    let weigh = |from: &str| {
        let jail = Jail::tools(format!(
            "[[mount]]\nfrom = \"{home}{from}\"\nto = \"/tmp/a\"\nmode = \"read-write\"\n"
        ));
        row(&weighed(&jail), "/tmp/a").clone()
    };
    let rows = ["/.claude", "", "/project"].map(weigh);
    assert_eq!(rows.each_ref().map(points), [6.0, 6.0, 0.5], "{rows:#?}");
    assert!(rows[0]["found"].to_string().contains(&format!("is {home}/.claude: ")), "{rows:#?}");
    assert!(rows[1]["found"].to_string().contains("very wide"), "{rows:#?}");
}

#[test]
fn a_socket_of_unknown_kind_weighs_less_than_the_hosts_network_and_a_known_one_more() {
    let mount = |name: &str| {
        let jail = Jail::tools(format!("[[mount]]\nfrom = \"PLACE/here/{name}\"\nto = \"/tmp/a\"\n"));
        // A path of at most 108 bytes, so by its directory.
        let directory = jail.place.join("here").join(name);
        let directory = directory.parent().expect("a directory");
        fs::create_dir_all(directory).expect("make a directory");
        let _listener = UnixListener::bind(jail.place.join("here").join(name)).expect("listen");
        weighed(&jail)
    };
    let landlock = if has_landlock() { "required" } else { "best-effort" };
    let text = |network: &str| format!("{network}[hardening]\nlandlock = \"{landlock}\"\n");
    let closed = total(&weighed(&Jail::tools(text(""))));
    let network = total(&weighed(&Jail::tools(text("[network]\nmode = \"host\"\n")))) - closed;
    let unknown = exposure(&mount("api.sock"), "/tmp/a");
    assert!(0.1 < unknown && unknown < network, "{unknown} {network}");
    for (name, least) in [
        ("docker.sock", 9.0),
        ("podman.sock", 9.0),
        ("bus", 6.0),
        ("ssh-AbC/agent.7", 5.0),
        ("S.gpg-agent", 5.0),
        ("wayland-0", 5.0),
        ("pulse/native", 4.0),
    ] {
        assert_eq!(exposure(&mount(name), "/tmp/a"), least, "{name}");
    }
    // One in a directory is as near.
    for (name, least) in [("api.sock", unknown), ("docker.sock", 9.0)] {
        let jail = Jail::tools("[[mount]]\nfrom = \"PLACE/d\"\nto = \"/tmp/a\"\n");
        let socket = jail.place.directory("d").join(name);
        let _listener = UnixListener::bind(&socket).expect("listen");
        let weighed = weighed(&jail);
        assert_eq!(exposure(&weighed, "/tmp/a"), least, "{weighed:#}");
        assert!(found(&weighed, "/tmp/a").contains(&format!("holds the socket {name}: ")), "{weighed:#}");
    }
}

#[test]
fn writing_to_what_runs_outside_is_worse_than_reading_it() {
    let mount = |mode: &str| {
        let jail = Jail::tools(format!(
            "[[mount]]\nfrom = \"PLACE/home/.local\"\nto = \"/tmp/a\"\nmode = \"{mode}\"\n"
        ));
        jail.place.directory("home/.local/bin");
        exposure(&weighed(&jail), "/tmp/a")
    };
    assert_eq!(mount("read-only"), 0.1);
    // Its programs, and what agents would obey there.
    assert_eq!(mount("read-write"), 6.0);
}

/// How many rows say that something is read as root.
fn rows_as_root(weighed: &Value) -> usize {
    let rows = weighed["rows"].as_array().expect("rows");
    rows.iter().filter(|row| row["name"].as_str().is_some_and(|name| name.ends_with(" as root"))).count()
}

#[test]
fn a_directory_of_root_s_that_root_mounts_counts_by_itself_and_a_file_that_is_named_does_not() {
    if !need_root() {
        return;
    }
    let mounting = |from: &str, mode: &str| {
        let jail =
            Jail::tools(format!("[[mount]]\nfrom = \"PLACE/{from}\"\nto = \"/tmp/a\"\nmode = \"{mode}\"\n"));
        jail.place.file("here/key", "x");
        jail
    };
    for mode in ["read-only", "read-write"] {
        let directory = mounting("here", mode);
        let weighed = weighed(&directory);
        assert_eq!(exposure(&weighed, "/tmp/a as root"), AS_ROOT);
        assert!(found(&weighed, "/tmp/a as root").starts_with("as its owner root: the jail reads"));
        let advice = row(&weighed, "/tmp/a as root")["advice"].as_str().expect("advice");
        assert!(advice.contains("name the single files"), "{advice}");
        assert_eq!(rows_as_root(&self::weighed(&mounting("here/key", mode))), 0);
        // The group as well.
        for (uid, gid, count) in [(12_345, 12_345, 0), (12_345, 0, 1), (0, 12_345, 1)] {
            std::os::unix::fs::chown(directory.place.join("here"), Some(uid), Some(gid)).expect("chown");
            assert_eq!(rows_as_root(&self::weighed(&directory)), count, "{uid}:{gid}");
        }
    }
}

#[test]
fn the_parts_of_a_direct_workspace_that_are_mounts_again_count_once_as_root_s() {
    if !need_root() {
        return;
    }
    let jail = Jail::tools("[workspace]\nmode = \"direct\"\npath = \"PLACE/work\"\n");
    jail.place.file("work/.vscode/tasks.json", "{}");
    jail.place.file("work/.github/workflows/ci.yml", "");
    let weighed = weighed(&jail);
    row(&weighed, "/workspace/.vscode");
    assert_eq!((rows_as_root(&weighed), exposure(&weighed, "/workspace as root")), (1, AS_ROOT));
}
