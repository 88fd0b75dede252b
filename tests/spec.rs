//! The spec: what is taken, what is refused, with which words, and from where.

mod need;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jailmk::error::{Report, StageError};
use jailmk::path::JailPath;
use jailmk::spec::{
    self, Access, Degradable, Demand, FileRule, Network, SeccompProfile, SourceOrigin, Spec, SpecError,
    Trust, WorkspaceMode, builtin, keys,
};

fn spec(text: &str) -> Spec {
    spec::parse(text, "/specs/test.toml").unwrap_or_else(|error| panic!("{}\n{text}", Report(&error)))
}

/// The whole message, hints included.
fn refusal(text: &str) -> String {
    match spec::parse(text, "t.toml") {
        Ok(spec) => panic!("taken: {spec:?}"),
        Err(error) => Report(&error).to_string(),
    }
}

fn is_refused_at(text: &str, place: &str, words: &str) {
    let message = refusal(text);
    assert!(message.starts_with(&format!("jailmk: cannot read the spec t.toml:{place}: ")), "{message}");
    assert!(message.contains(words), "{message}");
}

fn jail(path: &str) -> JailPath {
    JailPath::new(path).unwrap()
}

/// A directory of this test's own, gone afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("jailmk-spec-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        let directory = Directory(path.canonicalize().unwrap());
        set_mode(&directory.0, 0o755);
        directory
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        set_mode(&path, 0o644);
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn load(path: &str) -> Result<Spec, SpecError> {
    spec::load(Some(path), Trust::Owned)
}

fn load_refusal(path: &str) -> String {
    Report(&load(path).unwrap_err()).to_string()
}

// What is taken.

#[test]
fn an_empty_spec_is_the_strictest_jail() {
    let spec = spec("");
    assert_eq!(spec.name, "test");
    assert_eq!(spec.process.command, ["sh"]);
    assert_eq!(spec.process.user, "agent");
    assert!(spec.process.pass_env.is_empty() && spec.process.env.is_empty());
    assert_eq!(spec.workspace, None);
    assert_eq!(spec.network, Network::None);
    assert_eq!(spec.hardening.landlock, Demand::Required);
    assert_eq!(spec.hardening.seccomp, SeccompProfile::Default);
    assert!(spec.hardening.degrade.is_empty());
    assert_eq!(spec.limits, Default::default());
}

#[test]
fn every_section_is_read() {
    let spec = spec(
        r#"
        name = "python"
        include = ["terminal"]
        [rootfs]
        programs  = ["bash", "/usr/bin/env"]
        libraries = ["libnss_myhostname.so.2"]
        files = [
            "/usr/lib/python3*/**",
            { from = "conf/gitconfig", to = "/etc/gitconfig", mode = "0644" },
            { from = "/usr/lib/locale/C.utf8/**", optional = true },
            { content = "x", to = "/etc//x/" },
        ]
        exclude = ["**/__pycache__/**"]
        packages = ["libstdc++6:amd64"]
        symlinks = { "/usr/bin/python" = "python3" }
        directories = ["/srv"]
        [process]
        command = ["bash", ""]
        directory = "/workspace"
        user = "_a-1"
        env = { LANG = "C.UTF-8", "npm_config_//x" = "" }
        pass_env = ["LANG"]
        [workspace]
        path = "~/src"
        mode = "direct"
        [[mount]]
        from = "~/.cache/uv"
        to = "/home/agent/.cache/uv"
        mode = "read-write"
        exec = false
        create = true
        optional = true
        [tmpfs]
        "/tmp" = "512M"
        "/var/tmp" = 4096
        [limits]
        memory = "2G"
        swap = 0
        cpus = 1.5
        processes = 512
        weight = 50
        open_files = 1_024
        disk = "4G"
        time = "1h30m"
        [network]
        mode = "host"
        [hardening]
        landlock = "best-effort"
        seccomp = "strict"
        degrade = ["cgroup", "landlock", "cgroup"]
        "#,
    );
    assert_eq!(spec.name, "python");
    assert_eq!(spec.rootfs.programs[1].value, "/usr/bin/env");
    assert_eq!(spec.rootfs.packages[0].value, "libstdc++6:amd64");
    let rules: Vec<_> = spec.rootfs.files.iter().map(|rule| rule.value.clone()).collect();
    assert!(rules.contains(&FileRule::Glob { pattern: "/usr/lib/python3*/**".into(), optional: false }));
    assert!(rules.contains(&FileRule::Glob { pattern: "/usr/lib/locale/C.utf8/**".into(), optional: true }));
    assert!(rules.contains(&FileRule::Copy {
        from: "/specs/conf/gitconfig".into(),
        to: jail("/etc/gitconfig"),
        mode: Some(0o644),
        optional: false
    }));
    assert!(rules.contains(&FileRule::Content { content: "x".into(), to: jail("/etc/x"), mode: None }));
    assert_eq!(spec.rootfs.symlinks[&jail("/usr/bin/python")].value, Path::new("python3"));
    assert_eq!(spec.process.command, ["bash", ""]);
    assert_eq!(spec.process.home(), jail("/home/_a-1"));
    assert_eq!(spec.process.pass_env, ["TERM", "COLORTERM", "NO_COLOR", "LANG"]);
    assert_eq!(spec.workspace.unwrap().mode, WorkspaceMode::Direct);
    let mount = &spec.mounts[0];
    assert_eq!(mount.access, Access::ReadWrite);
    assert!(!mount.exec && mount.create && mount.optional);
    assert_eq!(spec.tmpfs[&jail("/tmp")], 512 << 20);
    assert_eq!(spec.tmpfs[&jail("/var/tmp")], 4096);
    assert_eq!(spec.limits.memory, Some(2 << 30));
    assert_eq!(spec.limits.swap, Some(0));
    assert_eq!(spec.limits.cpus, Some(1.5));
    assert_eq!(spec.limits.weight, Some(50));
    assert_eq!(spec.limits.open_files, Some(1024));
    assert_eq!(spec.limits.time, Some(Duration::from_secs(5400)));
    assert_eq!(spec.hardening.degrade, [Degradable::Cgroup, Degradable::Landlock]);
}

#[test]
fn a_workspace_and_a_mount_are_read_only_unless_written_otherwise() {
    let spec = spec("[workspace]\n[[mount]]\nfrom = '/srv'\nto = '/srv'");
    let workspace = spec.workspace.unwrap();
    assert_eq!((workspace.path.value, workspace.mode), (PathBuf::from("."), WorkspaceMode::ReadOnly));
    assert_eq!(spec.mounts[0].access, Access::ReadOnly);
    assert!(spec.mounts[0].exec && !spec.mounts[0].create && !spec.mounts[0].optional);
}

#[test]
fn every_key_of_the_table_is_read_with_its_sample_and_with_every_choice() {
    for key in keys::KEYS {
        let values: Vec<String> = match key.kind {
            keys::Kind::Choice(words) | keys::Kind::ChoiceOrFile(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect()
            }
            keys::Kind::Choices(words) => words.iter().map(|word| format!("[\"{word}\"]")).collect(),
            _ => Vec::new(),
        };
        for value in values.iter().map(String::as_str).chain([key.sample]) {
            let line = format!("{} = {value}", key.name);
            spec(&match (key.section, key.name) {
                ("", _) => line,
                ("mount", "from") => format!("[[mount]]\nto = '/x'\n{line}"),
                ("mount", "to") => format!("[[mount]]\nfrom = '/x'\n{line}"),
                ("mount", _) => format!("[[mount]]\nfrom = '/x'\nto = '/x'\n{line}"),
                (keys::FILES, "from" | "content") => format!("[rootfs]\nfiles = [{{ {line}, to = '/x' }}]"),
                (keys::FILES, "to") => format!("[rootfs]\nfiles = [{{ {line}, content = '' }}]"),
                (keys::FILES, _) => format!("[rootfs]\nfiles = [{{ {line}, from = '/x', to = '/x' }}]"),
                (section, _) => format!("[{section}]\n{line}"),
            });
        }
    }
}

#[test]
fn the_position_of_a_value_is_kept_in_characters() {
    let spec = spec("[rootfs]\nprograms = ['ä', 'bash']");
    let at = &spec.rootfs.programs[1].at;
    assert_eq!((&*at.file, at.line, at.column), ("/specs/test.toml", 2, 18));
}

// What is refused.

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_right_one() {
    is_refused_at("[rootfs]\n  progams = []", "2:3", "hint: did you mean `programs`?");
    is_refused_at("[rotfs]", "1:2", "hint: did you mean `rootfs`?");
    is_refused_at("[[mount]]\nfom = '/x'", "2:1", "hint: did you mean `from`?");
    is_refused_at("[rootfs]\nfiles = [{ form = '/x' }]", "2:12", "hint: did you mean `from`?");
}

#[test]
fn an_unknown_key_with_none_near_is_answered_with_the_keys_there_are() {
    is_refused_at("[network]\nfrobnicate = 1", "2:1", "hint: [network] has mode");
    is_refused_at("[process]\nfrobnicate = 1", "2:1", "command, directory, user, env, pass_env");
}

#[test]
fn a_key_in_the_wrong_section_is_sent_to_the_right_one() {
    is_refused_at("programs = []", "1:1", "hint: `programs` belongs in [rootfs]");
    is_refused_at("[process]\ninclude = []", "2:1", "`include` stands at the top");
}

#[test]
fn what_this_version_does_not_offer_is_unknown() {
    is_refused_at("[workspace]\nmode = 'sideways'", "2:8", "it is one of review, direct, read-only");
    is_refused_at("[hardening]\nseccomp = 'engine'", "2:11", "it is one of default, strict");
}

#[test]
fn the_first_mistake_of_the_text_is_the_one_reported() {
    is_refused_at("[process]\nuser = 1\ncommand = 1", "2:8", "`user`");
}

#[test]
fn a_value_of_another_type_is_refused_with_what_was_expected() {
    is_refused_at(
        "[limits]\nmemory = true",
        "2:10",
        "`memory` must be a size such as \"512M\", not a boolean",
    );
    is_refused_at("[limits]\nmemory = 1.5", "2:10", "not a number");
    is_refused_at("[limits]\nprocesses = '5'", "2:13", "`processes` must be a whole number, not a string");
    is_refused_at("[process]\ncommand = 'bash -l'", "2:11", "[\"bash\", \"-l\"]");
    is_refused_at("[rootfs]\nprograms = ['a', 1]", "2:18", "each element of `programs` must be a string");
    is_refused_at("[rootfs]\nfiles = [1]", "2:10", "each element of `files` must be a string or a table");
    is_refused_at("[process]\nenv = { A = 1 }", "2:13", "each element of `env` must be a string");
    is_refused_at("[rootfs]\nfiles = [{ from = '/x', to = '/x', mode = 0o644 }]", "2:43", "\"0644\"");
    is_refused_at("rootfs = 1", "1:10", "`rootfs` must be a table, not a whole number");
    is_refused_at("[mount]\nfrom = '/x'", "1:1", "[[mount]]");
    is_refused_at("mount = [1]", "1:10", "[[mount]]");
    is_refused_at("[[process]]", "1:1", "`process` must be a table, not a list");
    is_refused_at("name = 2024-01-01", "1:8", "not a date or time");
}

#[test]
fn syntax_errors_have_their_place() {
    is_refused_at("a = [\n1,\n", "2:3", "unclosed array");
    is_refused_at("\u{0} = 1", "1:1", "");
    is_refused_at("[process]\nuser = 'a'\nuser = 'b'", "3:1", "duplicate key");
    is_refused_at("[process]\n[process]", "2:2", "");
}

#[test]
fn sizes_and_times_out_of_range_are_refused() {
    is_refused_at("[limits]\nmemory = '2 G'", "2:10", "K, M, G or T");
    is_refused_at("[limits]\nmemory = -1", "2:10", "K, M, G or T");
    is_refused_at("[limits]\nmemory = 0", "2:10", "more than zero");
    is_refused_at("[tmpfs]\n'/tmp' = '0'", "2:10", "more than zero");
    is_refused_at("[limits]\nmemory = 99999999999999999999999999999999", "2:10", "less than");
    is_refused_at("[limits]\ntime = '1w'", "2:8", "1h30m");
    is_refused_at("[limits]\ntime = 0", "2:8", "more than zero");
    is_refused_at("[limits]\nprocesses = 0", "2:13", "from 1 to");
    is_refused_at("[limits]\nprocesses = 99999999999999999999999", "2:13", "from 1 to");
    is_refused_at("[limits]\nopen_files = -5", "2:14", "from 1 to");
    is_refused_at("[limits]\nweight = 10001", "2:10", "from 1 to 10000");
    for bad in ["0", "-1", "nan", "inf", "1e300", "0.001"] {
        is_refused_at(&format!("[limits]\ncpus = {bad}"), "2:8", "0.01");
    }
}

#[test]
fn an_empty_command_is_refused() {
    is_refused_at("[process]\ncommand = []", "2:11", "must name a program");
    is_refused_at("[process]\ncommand = ['']", "2:11", "must name a program");
}

#[test]
fn no_string_with_a_nul_byte_gets_through() {
    for text in [
        "[process]\ncommand = ['a', \"\\u0000\"]",
        "[process]\nenv = { A = \"\\u0000\" }",
        "[process]\nenv = { \"A\\u0000\" = '' }",
        "[process]\npass_env = [\"A\\u0000\"]",
        "[process]\ndirectory = \"/a\\u0000\"",
        "[rootfs]\nprograms = [\"a\\u0000\"]",
        "[rootfs]\nlibraries = [\"a\\u0000\"]",
        "[rootfs]\nsymlinks = { '/a' = \"\\u0000\" }",
        "[rootfs]\nfiles = [\"/\\u0000\"]",
        "[rootfs]\nfiles = [{ from = \"/\\u0000\", to = '/x' }]",
        "[rootfs]\nexclude = [\"/\\u0000\"]",
        "[workspace]\npath = \"\\u0000\"",
        "[[mount]]\nfrom = \"\\u0000\"\nto = '/x'",
        "[tmpfs]\n\"/\\u0000\" = 1",
        "include = [\"\\u0000\"]",
        "name = \"a\\u0000\"",
    ] {
        let message = refusal(text);
        assert!(!message.contains('\0'), "{message}");
    }
}

#[test]
fn names_are_names() {
    is_refused_at("[rootfs]\nprograms = ['bin/sh']", "2:13", "without `/`, or an absolute path");
    is_refused_at("[rootfs]\nprograms = ['']", "2:13", "not be empty");
    is_refused_at("[rootfs]\nlibraries = ['/lib/x.so']", "2:14", "`files`");
    is_refused_at("[rootfs]\npackages = ['../x']", "2:13", "package");
    is_refused_at("[rootfs]\npackages = ['-x']", "2:13", "package");
    is_refused_at("[process]\nenv = { 'A=B' = '' }", "2:9", "variable");
    is_refused_at("[process]\npass_env = ['LC_*']", "2:13", "in full");
    is_refused_at("name = 'a/b'", "1:8", "letters, digits");
    is_refused_at("name = '-a'", "1:8", "letters, digits");
    is_refused_at(&format!("name = '{}'", "a".repeat(64)), "1:8", "at most 63");
}

#[test]
fn the_user_inside_is_a_plain_name_and_never_root() {
    is_refused_at("[process]\nuser = 'root'", "2:8", "nothing in a jail is root");
    for bad in ["", "Agent", "1a", "-a", "a b", "a:b", "a/b", "ä", &"a".repeat(33)] {
        is_refused_at(&format!("[process]\nuser = '{bad}'"), "2:8", "a user name has");
    }
}

#[test]
fn a_file_stem_that_is_no_host_name_asks_for_a_name() {
    let error = spec::parse("", "my.agent.toml").unwrap_err();
    assert!(error.hints()[0].contains("name = \"my-agent\""), "{:?}", error.hints());
    assert_eq!(spec::parse("name = 'x'", "my.agent.toml").unwrap().name, "x");
}

#[test]
fn an_underscore_of_a_file_stem_is_a_hyphen_of_the_name() {
    assert_eq!(spec::parse("", "my_agent.toml").unwrap().name, "my-agent");
}

#[test]
fn a_program_below_the_home_is_refused_with_its_path_in_full() {
    let error = spec::parse("[rootfs]\nprograms = ['~/bin/tool']", "a.toml").unwrap_err();
    let home = std::env::var("HOME").unwrap();
    let report = Report(&error).to_string();
    assert!(report.contains("`~` is not expanded here"), "{report}");
    assert!(report.contains(&format!("write the path in full: {home}/bin/tool")), "{report}");
}

#[test]
fn paths_in_the_jail_are_absolute_and_do_not_climb() {
    is_refused_at("[process]\ndirectory = 'srv'", "2:13", "begin with `/`");
    is_refused_at("[rootfs]\ndirectories = ['/a/../b']", "2:16", "`..`");
    is_refused_at("[rootfs]\nfiles = [{ content = '', to = 'etc/x' }]", "2:31", "begin with `/`");
    is_refused_at("[rootfs]\nsymlinks = { 'a' = 'b' }", "2:14", "begin with `/`");
    is_refused_at(&format!("[rootfs]\ndirectories = ['/{}']", "a".repeat(256)), "2:16", "255");
    is_refused_at(&format!("[rootfs]\ndirectories = ['{}']", "/a".repeat(3000)), "2:16", "4095");
}

#[test]
fn nothing_is_put_over_the_kernels_own_places() {
    for place in ["/", "//.", "/proc", "/proc/1", "/dev", "/dev/shm/x", "/sys", "/sys/fs/cgroup"] {
        for text in [
            format!("[[mount]]\nfrom = '/x'\nto = '{place}'"),
            format!("[tmpfs]\n'{place}' = 1"),
            format!("[rootfs]\nsymlinks = {{ '{place}' = 'x' }}"),
            format!("[rootfs]\ndirectories = ['{place}']"),
            format!("[rootfs]\nfiles = [{{ content = '', to = '{place}' }}]"),
        ] {
            assert!(refusal(&text).contains("jailmk's own"), "{text}");
        }
    }
    spec("[tmpfs]\n'/process' = 1\n'/a/proc' = 1");
}

#[test]
fn two_things_on_one_target_are_refused() {
    let mount = |from: &str, to: &str| format!("[[mount]]\nfrom = '{from}'\nto = '{to}'\n");
    is_refused_at(&format!("{}{}", mount("/a", "/x"), mount("/b", "/x/")), "4:1", "at t.toml:1:1");
    is_refused_at(&format!("{}{}", mount("/a", "/x"), mount("/a", "/x")), "4:1", "taken already");
    is_refused_at(&format!("{}[tmpfs]\n'/x' = 1", mount("/a", "/x")), "1:1", "at t.toml:5:1");
    is_refused_at("[tmpfs]\n'/x' = 1\n'/x/' = 2", "3:1", "at t.toml:2:1");
    is_refused_at("[rootfs]\nsymlinks = { '/x' = 'a', '/x/.' = 'b' }", "2:26", "taken already");
    is_refused_at("[workspace]\n[tmpfs]\n'/workspace' = 1", "3:1", "by [workspace]");
    is_refused_at(
        "[rootfs]\nfiles = [{ content = 'a', to = '/x' }, { content = 'b', to = '/x' }]",
        "2:40",
        "taken already, at t.toml:2:10",
    );
    spec("[tmpfs]\n'/workspace' = 1");
}

#[test]
fn file_tables_say_one_thing() {
    let files = |element: &str| format!("[rootfs]\nfiles = [{{ {element} }}]");
    is_refused_at(&files("from = '/a', content = 'x', to = '/a'"), "2:10", "beside `content`");
    is_refused_at(&files("content = 'x'"), "2:10", "`to` is missing");
    is_refused_at(&files("to = '/x'"), "2:10", "`from` is missing");
    is_refused_at(&files(""), "2:10", "`from` is missing");
    is_refused_at(&files("from = '/a/*', mode = '0644'"), "2:10", "`mode` needs `to`");
    is_refused_at(&files("from = 'a'"), "2:19", "must begin with `/`");
    is_refused_at(&files("from = '/a/*', to = '/x'"), "2:19", "not a pattern");
    is_refused_at(&files("from = '~/a', to = '/x'"), "2:19", "not expanded");
    is_refused_at(&files("content = '', to = '/x', mode = '4755'"), "2:44", "setuid");
    is_refused_at(&files("content = '', to = '/x', optional = true"), "2:10", "beside `content`");
}

#[test]
fn globs_are_anchored_and_checked() {
    is_refused_at("[rootfs]\nfiles = ['etc/*']", "2:10", "must begin with `/`");
    is_refused_at("[rootfs]\nfiles = ['/etc/[']", "2:10", "no glob");
    is_refused_at("[rootfs]\nfiles = ['/etc/../root/**']", "2:10", "`..`");
    is_refused_at("[rootfs]\nexclude = ['*.pyc']", "2:12", "`/` or `**`");
    is_refused_at("[rootfs]\nexclude = ['**/{a']", "2:12", "no glob");
}

#[test]
fn a_mount_needs_both_ends() {
    is_refused_at("[[mount]]\nto = '/x'", "1:1", "`from` is missing in [mount]");
    is_refused_at("[[mount]]\nfrom = '/x'", "1:1", "`to` is missing in [mount]");
    is_refused_at("[[mount]]\nfrom = ''\nto = '/x'", "2:8", "not be empty");
    is_refused_at("[[mount]]\nfrom = '~bob/x'\nto = '/x'", "2:8", "only `~`");
}

#[test]
fn messages_from_hostile_text_are_short_and_without_control_bytes() {
    let message = refusal("\"\\u001b[2J\" = 1");
    assert!(!message.contains('\x1b') && message.contains("\\x1b[2J"), "{message}");
    let message = refusal(&format!("{} = 1", "a".repeat(500_000)));
    assert!(message.len() < 500, "{}", message.len());
    let message = refusal(&format!("[limits]\nmemory = '{}'", "ä".repeat(400_000)));
    assert!(message.len() < 500, "{}", message.len());
}

#[test]
fn hostile_shapes_are_refused_and_not_a_stack_overflow() {
    let mebibyte = 1 << 20;
    refusal(&"[".repeat(mebibyte));
    refusal(&format!("a = {}", "[".repeat(mebibyte)));
    refusal(&format!("a = {}{}", "[".repeat(5000), "]".repeat(5000)));
    refusal(&format!("a = {}", "{a=".repeat(mebibyte / 3)));
    refusal(&format!("[{}a]", "a.".repeat(mebibyte / 2)));
    refusal(&format!("{}a = 1", "a.".repeat(mebibyte / 2)));
    refusal(&"\"".repeat(mebibyte));
    refusal(&format!("[rootfs]\nexclude = ['/{}']", "{".repeat(4000)));
    refusal(&format!("[limits]\ncpus = {}", "9".repeat(mebibyte)));
    refusal(&format!("[limits]\nmemory = {}", "9".repeat(mebibyte)));
}

#[test]
fn many_values_on_one_line_are_read() {
    let names: String = (0..50_000).map(|number| format!("'a{number}',")).collect();
    let spec = spec(&format!("[rootfs]\nprograms = [{names}]\n"));
    assert_eq!(spec.rootfs.programs.len(), 50_000);
}

#[test]
fn numbers_are_read_in_every_notation_of_toml() {
    let limits = |text: &str| spec(&format!("[limits]\n{text}")).limits;
    assert_eq!(limits("memory = 0x1000").memory, Some(4096));
    assert_eq!(limits("time = 0b11").time, Some(Duration::from_secs(3)));
    assert_eq!(limits("cpus = 0x2").cpus, Some(2.0));
    assert_eq!(limits("processes = 0o17").processes, Some(15));
    is_refused_at("[limits]\nmemory = 0x10000000000000000", "2:10", "less than");
}

#[test]
fn no_damage_to_a_spec_makes_the_reader_panic() {
    let whole: String = keys::SECTIONS.iter().map(|section| section.name).collect::<Vec<_>>().join("\n");
    let texts = [spec::init_text("x").replace("\n#", "\n"), builtin::text("shell").unwrap().into(), whole];
    let mut state: u64 = 1;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let pieces =
        ["=", "[", "]", "{", "}", "\"", "'", "1", "true", ",", "\n", ".", "-", "ä", "\0", "\\u0000", "/"];
    for round in 0..600 {
        let mut bytes = texts[round % texts.len()].clone().into_bytes();
        for _ in 0..=random(4) {
            let (from, length) = (random(bytes.len()), random(20));
            let to = (from + length).min(bytes.len());
            bytes.splice(from..to, pieces[random(pieces.len())].bytes());
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = spec::parse(&text, "t.toml") {
            let _ = Report(&error).to_string();
        }
    }
}

// Includes.

#[test]
fn includes_come_first_lists_add_and_of_single_values_the_last_holds() {
    let directory = Directory::new();
    directory.write(
        "one.toml",
        "name = 'one'\n[rootfs]\nprograms = ['a', 'b']\nfiles = [{ content = '1', to = '/x' }]\n\
         [process]\ncommand = ['one']\nenv = { A = '1', B = '1' }\n[limits]\nmemory = '1M'\ncpus = 1\n\
         [tmpfs]\n'/t' = 1\n[workspace]\nmode = 'direct'\n[hardening]\ndegrade = ['cgroup']\n",
    );
    directory.write("two.toml", "[rootfs]\nprograms = ['c', 'a']\n[limits]\nmemory = '2M'\n");
    let path = directory.write(
        "own.toml",
        "include = ['./one.toml', './two.toml']\n[rootfs]\nprograms = ['d']\n\
         files = [{ content = '2', to = '/x' }]\n[process]\nenv = { B = '2' }\n[tmpfs]\n'/t' = 2\n\
         [workspace]\npath = 'here'\n[hardening]\ndegrade = ['landlock']\n",
    );
    let spec = load(&path).unwrap();
    assert_eq!(spec.name, "own", "the name is not inherited");
    let programs: Vec<_> = spec.rootfs.programs.iter().map(|name| name.value.as_str()).collect();
    assert_eq!(programs, ["a", "b", "c", "d"]);
    assert_eq!(spec.rootfs.files.len(), 1);
    assert!(matches!(&spec.rootfs.files[0].value, FileRule::Content { content, .. } if content == "2"));
    assert_eq!(spec.process.command, ["one"]);
    assert_eq!((spec.process.env["A"].as_str(), spec.process.env["B"].as_str()), ("1", "2"));
    assert_eq!((spec.limits.memory, spec.limits.cpus), (Some(2 << 20), Some(1.0)));
    assert_eq!(spec.tmpfs[&jail("/t")], 2);
    let workspace = spec.workspace.unwrap();
    assert_eq!((workspace.path.value, workspace.mode), ("here".into(), WorkspaceMode::Direct));
    assert_eq!(spec.hardening.degrade, [Degradable::Cgroup, Degradable::Landlock]);
    let last = spec.sources.last().unwrap();
    assert_eq!((spec.sources.len(), &last.origin), (3, &SourceOrigin::File(path.into())));
}

#[test]
fn a_mount_takes_the_place_of_an_included_tmpfs() {
    let directory = Directory::new();
    directory.write("server.toml", "[tmpfs]\n'/data' = 1\n'/run/server' = 1\n");
    let mount = "[[mount]]\nfrom = '/host'\nto = '/data'\n";
    let path = directory.write("own.toml", format!("include = ['./server.toml']\n{mount}"));
    let spec = load(&path).unwrap();
    assert_eq!(spec.tmpfs.keys().collect::<Vec<_>>(), [&jail("/run/server")]);
    assert_eq!(spec.mounts[0].to, jail("/data"));
    // The other way round the data would be gone, and nobody told.
    directory.write("other.toml", mount);
    let path = directory.write("own.toml", "include = ['./other.toml', './server.toml']\n");
    assert!(load_refusal(&path).contains("/data"));
}

#[test]
fn relative_paths_belong_to_the_file_that_has_them() {
    let directory = Directory::new();
    fs::create_dir(directory.0.join("sub")).unwrap();
    set_mode(directory.0.join("sub"), 0o755);
    directory.write("sub/inner.toml", "[rootfs]\nfiles = [{ from = 'x', to = '/x' }]");
    directory.write("sub/outer.toml", "include = ['./inner.toml', 'inner']");
    let spec = load(&directory.write("own.toml", "include = ['sub/outer.toml']")).unwrap();
    let expected = directory.0.join("sub/x");
    assert!(matches!(&spec.rootfs.files[0].value, FileRule::Copy { from, .. } if *from == expected));
    assert_eq!(spec.sources.len(), 3, "an include reached twice is merged once");
}

#[test]
fn a_circle_of_includes_is_named() {
    let directory = Directory::new();
    directory.write("b.toml", "include = ['./a.toml']");
    let message = load_refusal(&directory.write("a.toml", "include = ['./b.toml']"));
    let a = directory.0.join("a.toml").display().to_string();
    let b = directory.0.join("b.toml").display().to_string();
    assert!(message.ends_with(&format!("go round in a circle: {a} → {b} → {a}")), "{message}");
    let message = load_refusal(&directory.write("self.toml", "include = ['./self.toml']"));
    assert!(message.contains("circle"), "{message}");
}

#[test]
fn includes_are_bounded_in_depth_and_number() {
    let directory = Directory::new();
    for number in 0..40 {
        directory.write(&format!("d{number}.toml"), format!("include = ['./d{}.toml']", number + 1));
    }
    assert!(load_refusal(directory.0.join("d0.toml").to_str().unwrap()).contains("16 deep"));
    let all: Vec<_> = (0..100).map(|number| directory.write(&format!("n{number}.toml"), "")).collect();
    let path = directory.write("all.toml", format!("include = {all:?}"));
    assert!(load_refusal(&path).contains("more than 64"));
}

#[test]
fn an_error_in_an_include_names_both_places() {
    let directory = Directory::new();
    directory.write("inner.toml", "nme = 'x'");
    let message = load_refusal(&directory.write("own.toml", "include = ['./inner.toml']"));
    assert!(message.contains("own.toml:1:12") && message.contains("inner.toml:1:1"), "{message}");
    assert!(message.contains("hint: did you mean `name`?"), "{message}");
}

#[test]
fn a_missing_include_is_refused_with_where_it_was_looked_for() {
    let directory = Directory::new();
    let message = load_refusal(&directory.write("own.toml", "include = ['pyhton']"));
    assert!(message.contains("/etc/jailmk/specs/pyhton.toml"), "{message}");
    assert!(message.contains("own.toml:1:12") && message.contains("did you mean `python`?"), "{message}");
}

#[test]
fn a_file_beside_the_spec_cannot_take_the_place_of_a_built_in_include() {
    let directory = Directory::new();
    let path = directory.write("own.toml", "include = ['base']");
    assert_eq!(load(&path).unwrap().sources[0].origin, SourceOrigin::BuiltIn("base"));
    directory.write("base.toml", "[network]\nmode = 'host'");
    let message = load_refusal(&path);
    assert!(message.contains("base (built in)") && message.contains("./base.toml"), "{message}");
    assert_eq!(
        load(&directory.write("own.toml", "include = ['./base.toml']")).unwrap().network,
        Network::Host
    );
}

#[test]
fn a_spec_from_memory_opens_no_file() {
    let directory = Directory::new();
    let path = directory.write("other.toml", "");
    for name in [path.as_str(), "./other.toml", "other"] {
        let error =
            spec::parse(&format!("include = ['{name}']"), directory.0.join("x.toml").to_str().unwrap());
        assert!(Report(&error.unwrap_err()).to_string().contains("only built-in specs"), "{name}");
    }
}

// Where it comes from.

#[test]
fn an_argument_that_is_nowhere_is_refused_with_every_place() {
    let message = Report(&spec::load(Some("pyhton"), Trust::Owned).unwrap_err()).to_string();
    for place in ["./pyhton.toml", "/etc/jailmk/specs/pyhton.toml", "built-in", "did you mean `python`?"] {
        assert!(message.contains(place), "{message}");
    }
    let message = Report(&spec::load(Some("/nowhere/x.toml"), Trust::Owned).unwrap_err()).to_string();
    assert!(message.contains("/nowhere/x.toml"), "{message}");
    for strange in ["", ".", "..", "a\0b", "\x1b[2J"] {
        let message = Report(&spec::load(Some(strange), Trust::Owned).unwrap_err()).to_string();
        assert!(!message.contains(['\0', '\x1b']), "{message}");
    }
}

/// Not a test: [`found`] runs it in a process whose directory and environment it sets.
#[test]
#[ignore = "run by other tests"]
fn probe() {
    let argument = std::env::var("PROBE_ARGUMENT").ok();
    match spec::load(argument.as_deref(), Trust::Owned) {
        Ok(spec) => println!("\nfound {:?} {}", spec.sources.last().unwrap().origin, spec.name),
        Err(error) => println!("\nfound {}", Report(&error)),
    }
}

fn found(argument: Option<&str>, directory: &Path, home: &Path, config: Option<&str>) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "probe", "--ignored", "--nocapture"]).current_dir(directory);
    command.env_remove("XDG_CONFIG_HOME").env_remove("PROBE_ARGUMENT").env("HOME", home);
    command.envs(config.map(|config| ("XDG_CONFIG_HOME", config)));
    command.envs(argument.map(|argument| ("PROBE_ARGUMENT", argument)));
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    output.lines().find_map(|line| line.strip_prefix("found ")).unwrap_or(&output).to_owned()
}

#[test]
fn a_name_is_looked_for_here_with_the_caller_and_built_in() {
    let (here, home) = (Directory::new(), Directory::new());
    let ask = |argument| found(argument, &here.0, &home.0, None);
    let file = |directory: &Directory, name: &str| format!("File({:?})", directory.0.join(name));
    assert!(ask(None).contains("there is none as jail.toml"), "{}", ask(None));
    assert!(ask(Some("python")).starts_with("BuiltIn(\"python\")"));

    for (directory, specs) in [(&home, ".config/jailmk/specs"), (&home, "xdg/jailmk/specs")] {
        fs::create_dir_all(directory.0.join(specs)).unwrap();
        set_mode(directory.0.join(specs), 0o755);
        directory.write(&format!("{specs}/python.toml"), "");
    }
    assert!(ask(Some("python")).starts_with(&file(&home, ".config/jailmk/specs/python.toml")));
    let xdg = home.0.join("xdg");
    let asked = found(Some("python"), &here.0, &home.0, xdg.to_str());
    assert!(asked.starts_with(&file(&home, "xdg/jailmk/specs/python.toml")), "{asked}");
    let asked = found(Some("python"), &here.0, &home.0, Some("xdg"));
    assert!(asked.starts_with(&file(&home, ".config/jailmk/specs/python.toml")), "a relative one is ignored");

    here.write("python.toml", "");
    here.write("jail.toml", "");
    here.write("plain", "");
    fs::create_dir(here.0.join("tls")).unwrap();
    here.write("own.toml", "");
    assert_eq!(ask(Some("own")), format!("{} own", file(&here, "own.toml")));
    let refusal = ask(Some("python"));
    assert!(refusal.contains("cannot choose the spec \"python\""), "a jail could have written it: {refusal}");
    assert_eq!(ask(Some("./python.toml")), format!("{} python", file(&here, "python.toml")));
    assert_eq!(ask(None), format!("{} jail", file(&here, "jail.toml")));
    assert!(ask(Some("plain")).contains("cannot find the spec"), "a name is no path");
    assert_eq!(ask(Some("./plain")), format!("{} plain", file(&here, "plain")));
    assert!(ask(Some("tls")).starts_with("BuiltIn"), "a directory of that name is no spec");
}

#[test]
fn a_built_in_spec_is_found_by_name() {
    let spec = spec::load(Some("python"), Trust::Owned).unwrap();
    assert_eq!(spec.name, "python");
    assert_eq!(spec.process.command, ["python3"]);
    assert!(spec.sources.iter().all(|source| matches!(source.origin, SourceOrigin::BuiltIn(_))));
}

#[test]
fn only_regular_files_are_read() {
    let directory = Directory::new();
    let pipe = directory.0.join("pipe.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    for path in [pipe.to_str().unwrap(), "/dev/zero", "/dev/null", directory.0.to_str().unwrap()] {
        for trust in [Trust::Owned, Trust::Any] {
            let message = Report(&spec::load(Some(path), trust).unwrap_err()).to_string();
            assert!(message.contains("not a regular file"), "{message}");
        }
    }
}

#[test]
fn a_spec_has_at_most_a_mebibyte() {
    let directory = Directory::new();
    let comment = |length: usize| format!("#{}", " ".repeat(length - 1));
    assert!(load(&directory.write("large.toml", comment(1 << 20))).is_ok());
    assert!(load_refusal(&directory.write("larger.toml", comment((1 << 20) + 1))).contains("1 MiB"));
}

#[test]
fn a_spec_that_is_not_utf_8_is_refused_at_the_first_wrong_byte() {
    let directory = Directory::new();
    let message = load_refusal(&directory.write("x.toml", b"# \xc3\xa4\n# \xff"));
    assert!(message.contains("x.toml:2:3: the file is not UTF-8"), "{message}");
}

#[test]
fn a_spec_that_others_may_change_is_refused_unless_trusted() {
    let directory = Directory::new();
    let path = directory.write("x.toml", "");
    if nix::unistd::geteuid().is_root() {
        // Root is alone in its own group; nobody and others are in this one.
        for path in [Path::new(&path), &directory.0] {
            std::os::unix::fs::chown(path, None, Some(65534)).unwrap();
        }
    }
    for mode in [0o664, 0o646] {
        set_mode(&path, mode);
        let message = load_refusal(&path);
        assert!(message.contains("others may write to it"), "{message}");
        assert!(message.contains("chmod go-w") && message.contains("--trust-spec"), "{message}");
        assert!(spec::load(Some(&path), Trust::Any).is_ok());
    }
    set_mode(&path, 0o644);
    assert!(load(&path).is_ok());
    for mode in [0o775, 0o757] {
        set_mode(&directory.0, mode);
        assert!(load_refusal(&path).contains("others may write to its directory"));
    }
    set_mode(&directory.0, 0o1777);
    assert!(load(&path).is_ok(), "nobody else can replace a file in a sticky directory");
}

#[test]
fn a_link_is_trusted_as_the_directory_it_is_in_and_the_file_it_leads_to() {
    let ours = Directory::new();
    let open = Directory::new();
    let file = ours.write("x.toml", "");
    let link = open.0.join("link.toml");
    symlink(&file, &link).unwrap();
    assert!(load(link.to_str().unwrap()).is_ok());
    set_mode(&open.0, 0o777);
    assert!(load_refusal(link.to_str().unwrap()).contains("its directory"));

    let target = open.write("y.toml", "");
    let link = ours.0.join("y.toml");
    symlink(target, &link).unwrap();
    assert!(load_refusal(link.to_str().unwrap()).contains("its directory"));
}

#[test]
fn an_include_is_trusted_no_more_than_a_spec() {
    let directory = Directory::new();
    set_mode(directory.write("inner.toml", ""), 0o666);
    let path = directory.write("own.toml", "include = ['./inner.toml']");
    assert!(load_refusal(&path).contains("others may write to it"));
    assert!(spec::load(Some(&path), Trust::Any).is_ok());
}

#[test]
fn a_spec_of_another_user_is_refused() {
    if !need::need_root() {
        return;
    }
    let directory = Directory::new();
    let path = directory.write("x.toml", "");
    std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
    assert!(load_refusal(&path).contains("owned by user 1234"));
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    std::os::unix::fs::chown(&directory.0, Some(1234), None).unwrap();
    assert!(load_refusal(&path).contains("its directory is owned by user 1234"));
}

// What comes with it.

#[test]
fn every_built_in_spec_parses_and_needs_only_built_in_ones() {
    for name in builtin::names() {
        let spec = spec::load(Some(&format!("./{name}.toml")), Trust::Owned);
        assert!(spec.is_err(), "a path is no built-in spec");
        let spec = spec::parse(builtin::text(name).unwrap(), &format!("{name}.toml")).unwrap();
        assert_eq!(spec.name, name);
        // A server is there for clients in the same jail.
        let network = match name {
            "nginx" | "postgres" | "redis" => Network::Loopback,
            _ => Network::None,
        };
        assert_eq!(spec.network, network, "{name}");
        assert!(spec.mounts.is_empty() && spec.hardening.degrade.is_empty(), "{name}");
        assert_eq!(spec.hardening.landlock, Demand::Required, "{name}");
    }
}

#[test]
fn the_spec_of_init_parses_as_written_and_with_every_comment_taken_away() {
    let text = spec::init_text("my project");
    let first = spec(&text);
    assert_eq!(first.name, "my-project");
    assert!(first.workspace.is_some());
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let all = spec(&uncommented);
    assert_eq!((all.mounts.len(), all.tmpfs.len()), (1, 1));
    for section in keys::SECTIONS.iter().filter(|section| section.form != keys::Form::Element) {
        assert!(text.contains(section.doc), "{}", section.name);
    }
}

#[test]
fn the_schema_has_every_key_and_no_other() {
    let schema = spec::json_schema();
    let files = &schema["properties"]["rootfs"]["properties"]["files"]["items"]["anyOf"][1];
    for key in keys::KEYS {
        let object = match key.section {
            "" => &schema,
            keys::FILES => files,
            "mount" => &schema["properties"]["mount"]["items"],
            section => &schema["properties"][section],
        };
        assert!(object["properties"][key.name]["description"].is_string(), "{}.{}", key.section, key.name);
        assert_eq!(object["additionalProperties"], false, "{}", key.section);
    }
}
