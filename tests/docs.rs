//! The documentation says what the code says, and its examples run.
//!
//! In README.md a `console` block is run, line by line behind each `$ `, and its output is compared: `…`
//! stands for any text in a line, and alone on a line for any lines. A `toml` block is parsed. In a
//! manual page a literal block has `.\" run`, `.\" toml`, `.\" output` or `.\" unit` (tests/service.rs) before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use jailmk::error::{Report, status};
use jailmk::spec::keys::{self, FILES, Form, KEYS, Key, Kind, SECTIONS};
use jailmk::spec::{self, builtin};

fn repository() -> PathBuf {
    std::env::var_os("JAILMK_REPO").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn binary() -> PathBuf {
    std::env::var_os("JAILMK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_jailmk").into(), PathBuf::from)
}

fn text(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn jailmk(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn printed(output: Output) -> String {
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

fn must_run() -> bool {
    std::env::var("JAILMK_MUST_RUN").is_ok_and(|value| value == "1")
}

/// Every manual page: file name → text.
fn pages() -> BTreeMap<String, String> {
    let entries = fs::read_dir(repository().join("man")).expect("man/ is there");
    let names = entries.map(|entry| entry.expect("man/ can be read").file_name().into_string().unwrap());
    names
        .filter(|name| name.ends_with(['1', '5', '7']))
        .map(|name| (name.clone(), text(&format!("man/{name}"))))
        .collect()
}

/// A line of mdoc as its reader sees the characters.
fn plain(line: &str) -> String {
    let pairs = [("\\(ga", "`"), ("\\(dq", "\""), ("\\(aq", "'"), ("\\(ti", "~"), ("\\&", ""), ("\\-", "-")];
    let unescaped = pairs.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
    unescaped.replace("\\e", "\\")
}

/// The flags that `.It Fl` lines of a page explain, and all that it names, without the first hyphen.
fn flags(page: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut explained, mut named) = (BTreeSet::new(), BTreeSet::new());
    for line in page.lines().filter(|line| line.starts_with('.') && !line.starts_with(".\\\"")) {
        let words: Vec<&str> = line.split([' ', '.']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2).filter(|pair| pair[0] == "Fl") {
            if let Some(long) = pair[1].strip_prefix('-') {
                named.insert(long.to_owned());
                if line.starts_with(".It Fl") {
                    explained.insert(long.to_owned());
                }
            }
        }
    }
    (explained, named)
}

fn longs(command: &clap::Command) -> BTreeSet<String> {
    command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect()
}

fn page_of(subcommand: &str) -> String {
    match subcommand {
        "schema" | "completions" => "jailmk.1".to_owned(),
        other => format!("jailmk-{other}.1"),
    }
}

#[test]
fn every_command_and_flag_is_in_its_page_and_no_other_is() {
    let definition = jailmk::cli::definition();
    let pages = pages();
    let mut all: BTreeSet<String> = ["help".to_owned(), "version".to_owned()].into();
    all.extend(definition.get_subcommands().flat_map(longs));
    for subcommand in definition.get_subcommands() {
        let name = subcommand.get_name();
        let page = pages.get(&page_of(name)).unwrap_or_else(|| panic!("no page for {name}"));
        assert!(pages["jailmk.1"].contains(&format!(".It Cm {name}")), "jailmk.1 lacks {name}");
        if page_of(name) != "jailmk.1" {
            assert_eq!(flags(page).0, longs(subcommand), "{name}");
        }
        for argument in subcommand.get_arguments().filter(|argument| argument.get_long().is_some()) {
            let (long, values) = (argument.get_long().unwrap(), argument.get_value_names());
            if let (Some([value, ..]), true) = (values, argument.get_action().takes_values()) {
                let line = format!(".It Fl -{long} Ar {value}");
                assert!(page.contains(&line), "{name} lacks {line}");
            }
        }
        for positional in subcommand.get_positionals() {
            let value = positional.get_value_names().map_or("", |names| names[0].as_str());
            assert!(page.contains(&format!("Ar {value}")), "{name} lacks {value}");
        }
    }
    let own: BTreeSet<String> = ["help".to_owned(), "version".to_owned()].into();
    assert_eq!(flags(&pages["jailmk.1"]).0, own);
    for (name, page) in &pages {
        let unknown: Vec<_> = flags(page).1.difference(&all).cloned().collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}");
    }
}

#[test]
fn the_readme_names_every_command_and_no_unknown_flag() {
    let definition = jailmk::cli::definition();
    let readme = text("README.md");
    let mut known: BTreeSet<String> = definition.get_subcommands().flat_map(longs).collect();
    // Of cargo, systemd-run, scripts/test and patches.
    known.extend(["release", "path", "user", "scope", "quick", "git"].map(str::to_owned));
    for subcommand in definition.get_subcommands() {
        let name = subcommand.get_name();
        assert!(readme.contains(&format!("`jailmk {name}")), "README.md lacks {name}");
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    for (start, _) in readme.match_indices(" --").chain(readme.match_indices("`--")) {
        let word: String = readme[start + 3..].chars().take_while(|c| is_word(*c)).collect();
        assert!(word.is_empty() || known.contains(&word), "--{word}");
    }
}

#[test]
fn pages_refer_to_pages_that_exist() {
    let pages = pages();
    for (name, page) in &pages {
        for line in page.lines() {
            for (start, _) in line.match_indices("Xr jailmk") {
                let mut words = line[start..].split(' ').skip(1);
                let target = format!("{}.{}", words.next().unwrap(), words.next().unwrap());
                assert!(pages.contains_key(&target), "{name}: {target}");
            }
        }
    }
    let readme = text("README.md");
    for (start, _) in readme.match_indices("](") {
        let target: String = readme[start + 2..].chars().take_while(|c| *c != ')').collect();
        assert!(repository().join(&target).exists(), "README.md: {target}");
    }
}

/// What the manual calls the type of a value.
fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "string",
        Kind::Label => "name",
        Kind::UserName => "user name",
        Kind::HostPath => "host path",
        Kind::JailPath => "path in the jail",
        Kind::Mode => "permission bits",
        Kind::Boolean => "boolean",
        Kind::Size => "size",
        Kind::Duration => "time",
        Kind::Number => "number",
        Kind::Count(_) => "whole number",
        Kind::Choice(_) => "word",
        Kind::ChoiceOrFile(_) => "word or host path",
        Kind::Choices(_) => "list of words",
        Kind::Texts => "list of strings",
        Kind::Files => "list of strings and tables",
        Kind::TextTable | Kind::LinkTable => "table of strings",
    }
}

/// The part of jailmk-spec.5 about one section.
fn section_of<'a>(page: &'a str, section: &str) -> &'a str {
    let title = match section {
        "" => "Before the first header".to_owned(),
        FILES => "Elements of files".to_owned(),
        "mount" => "[[mount]]".to_owned(),
        other => format!("[{other}]"),
    };
    let header = format!(".Ss {title}\n");
    let start = page.find(&header).unwrap_or_else(|| panic!("no {header}")) + header.len();
    let ends = ["\n.Ss ", "\n.Sh "].into_iter().filter_map(|header| page[start..].find(header));
    let end = ends.min().map_or(page.len(), |end| start + end);
    &page[start..end]
}

fn entry_of(page: &str, key: &Key) -> String {
    let section = section_of(page, key.section);
    let header = format!(".It Ic {} Pq {}\n", key.name, type_name(key.kind));
    let start = section.find(&header).unwrap_or_else(|| panic!("[{}] lacks {header}", key.section));
    let entry = &section[start + header.len()..];
    let end = entry.find("\n.It ").or(entry.find("\n.El")).unwrap_or(entry.len());
    entry[..end].lines().map(plain).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_is_in_the_manual_with_type_default_meaning_and_example() {
    let page = text("man/jailmk-spec.5");
    for key in KEYS {
        let entry = entry_of(&page, key);
        assert!(entry.contains(key.doc), "{}: {}", key.name, key.doc);
        assert!(entry.contains(&format!("\nDefault: {}.\n", key.default)), "{}: {entry}", key.name);
        if let Kind::Choice(words) | Kind::ChoiceOrFile(words) | Kind::Choices(words) = key.kind {
            for word in words {
                assert!(entry.contains(&format!(".Cm {word} ")), "{}: {word}", key.name);
            }
        }
        let example = entry.lines().find_map(|line| line.strip_prefix(".Dl ")).expect("an example");
        assert!(example.starts_with(&format!("{} = ", key.name)), "{example}");
        parses(&in_place(key, example));
    }
    for section in SECTIONS {
        let entries = section_of(&page, section.name).matches("\n.It Ic ").count();
        assert_eq!(entries, keys::of_section(section.name).count(), "[{}] has others", section.name);
    }
}

/// A whole spec around one line.
fn in_place(key: &Key, line: &str) -> String {
    let form = SECTIONS.iter().find(|section| section.name == key.section).expect("its section").form;
    match (form, key.name) {
        (Form::Top, _) => line.to_owned(),
        (Form::Element, "from") => format!("[rootfs]\nfiles = [{{ {line}, to = \"/a\" }}]"),
        (Form::Element, "to" | "mode") if key.name == "mode" => {
            format!("[rootfs]\nfiles = [{{ from = \"/a\", to = \"/b\", {line} }}]")
        }
        (Form::Element, "content") => format!("[rootfs]\nfiles = [{{ {line}, to = \"/a\" }}]"),
        (Form::Element, _) => format!("[rootfs]\nfiles = [{{ from = \"/a\", {line} }}]"),
        (Form::List, "from") => format!("[[mount]]\n{line}\nto = \"/a\""),
        (Form::List, "to") => format!("[[mount]]\n{line}\nfrom = \"/a\""),
        (Form::List, _) => format!("[[mount]]\nfrom = \"/a\"\nto = \"/a\"\n{line}"),
        (Form::Table | Form::Sizes, _) => format!("[{}]\n{line}", key.section),
    }
}

fn parses(text: &str) {
    if let Err(error) = spec::parse(text, "/specs/example.toml") {
        panic!("{}\n{text}", Report(&error));
    }
}

/// The fenced blocks of README.md in `language`.
fn fenced(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("\n```") {
        let block = &rest[start + 4..];
        let (kind, body) = block.split_once('\n').expect("a fence is a line");
        let end = body.find("\n```").expect("the fence is closed");
        if kind == language {
            blocks.push(body[..end + 1].to_owned());
        }
        rest = &body[end + 4..];
    }
    blocks
}

/// The literal blocks of a page with `mark` before them; every literal block has a mark.
fn literal(page: &str, mark: &str) -> Vec<String> {
    let lines: Vec<&str> = page.lines().collect();
    let mut blocks = Vec::new();
    for (number, _) in lines.iter().enumerate().filter(|(_, line)| line.starts_with(".Bd -literal")) {
        let found = lines[number - 1].strip_prefix(".\\\" ").unwrap_or("");
        assert!(
            ["run", "toml", "output", "unit"].contains(&found),
            "a block without mark: {}",
            lines[number + 1]
        );
        if found == mark {
            let body = lines[number + 1..].iter().take_while(|line| !line.starts_with(".Ed"));
            blocks.push(body.map(|line| plain(line) + "\n").collect());
        }
    }
    blocks
}

#[test]
fn every_spec_that_is_shown_parses() {
    let readme = fenced(&text("README.md"), "toml");
    assert!(!readme.is_empty());
    let shown = pages().into_values().flat_map(|page| literal(&page, "toml"));
    readme.into_iter().chain(shown).for_each(|block| parses(&block));
}

#[test]
fn the_built_in_specs_are_listed_and_no_others() {
    let built_in: BTreeSet<&str> = builtin::names().collect();
    let page = text("man/jailmk-spec.5");
    let listed: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix(".It Sy ")).collect();
    assert_eq!(listed, built_in);
    let readme = text("README.md");
    let table = readme.split("| spec | holds |").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<BTreeSet<&str>>(), built_in);
}

#[test]
fn exit_statuses_are_those_of_the_code() {
    let own = [status::TIMED_OUT, status::FAILED, status::NOT_EXECUTABLE, status::NOT_FOUND];
    let own: BTreeSet<String> = own.iter().map(u8::to_string).collect();
    let page = text("man/jailmk-enter.1");
    let part = page.split(".Sh EXIT STATUS").nth(1).and_then(|rest| rest.split("\n.Sh ").next()).unwrap();
    let listed: BTreeSet<String> =
        part.lines().filter_map(|line| line.strip_prefix(".It ")).map(str::to_owned).collect();
    // 2 is clap's.
    assert_eq!(listed.into_iter().filter(|status| status != "2").collect::<BTreeSet<_>>(), own);
    assert_eq!(jailmk(&["enter", "--no-such-flag"]).status.code(), Some(2));
    let readme = text("README.md");
    for status in own {
        assert!(readme.contains(&format!("\n| {status} | ")), "README.md lacks {status}");
    }
}

#[test]
fn the_table_of_kernel_features_has_what_check_has() {
    let findings: serde_json::Value = serde_json::from_str(&printed(jailmk(&["check", "--json"]))).unwrap();
    let found: BTreeSet<&str> =
        findings.as_array().unwrap().iter().map(|finding| finding["name"].as_str().unwrap()).collect();
    let source = include_str!("../src/lib.rs");
    let table = source.split("| kernel feature |").nth(1).expect("the table");
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("//! | ")?.split(" | ").next());
    let mut rows: BTreeSet<&str> = rows.collect();
    if !nix::unistd::geteuid().is_root() {
        // Tried for root only.
        rows.remove("idmapped mount");
    }
    assert_eq!(found, rows);
}

#[test]
fn the_shipped_schema_is_the_one_that_is_printed() {
    let shipped = text("man/jailmk-spec.schema.json");
    assert!(shipped == printed(jailmk(&["schema"])), "jailmk schema > man/jailmk-spec.schema.json");
}

/// Every text below `directory` that ends in `.rs`.
fn sources_below(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory of sources").flatten();
    let paths = entries.map(|entry| entry.path()).collect::<Vec<_>>();
    let of = |path: &PathBuf| match path.is_dir() {
        true => sources_below(path),
        false if path.extension().is_some_and(|extension| extension == "rs") => {
            vec![fs::read_to_string(path).expect("a source")]
        }
        false => Vec::new(),
    };
    paths.iter().flat_map(of).collect()
}

#[test]
fn every_test_that_the_security_table_names_is_there() {
    let security = text("SECURITY.md");
    let table =
        security.split("| class | happened |").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    let sources: String =
        ["tests", "src"].iter().flat_map(|directory| sources_below(&repository().join(directory))).collect();
    let mut rows = 0;
    for row in table.lines().skip(2) {
        let tests: Vec<&str> = row.split(" | ").last().unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let head = format!("fn {test}()");
            let mut heads = sources.match_indices(&head).map(|(at, _)| &sources[..at]);
            let is_test = heads.any(|before| before.trim_end().ends_with("#[test]"));
            assert!(is_test, "{test} is no test");
        }
        rows += 1;
    }
    assert!(rows > 20, "{rows} rows");
}

#[test]
fn the_protected_names_of_the_manual_are_those_of_the_table() {
    use jailmk::workspace::protected::{GIT, GROUPS};
    let page = text("man/jailmk-apply.1");
    assert!(page.contains(&format!("\n.It {GIT}\n")));
    for group in GROUPS {
        let entry = page.split(&format!("\n.It {}\n", group.what)).nth(1).expect(group.what);
        let lines = entry.lines().take_while(|line| line.starts_with(".Pa "));
        let listed: Vec<&str> =
            lines.flat_map(|line| line[4..].split(' ')).filter(|word| *word != ",").collect();
        assert_eq!(listed, group.names, "{}", group.what);
    }
}

#[test]
fn completions_know_every_command_and_flag() {
    let definition = jailmk::cli::definition();
    for shell in ["bash", "zsh", "fish"] {
        let output = jailmk(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        let script = printed(output);
        for subcommand in definition.get_subcommands() {
            assert!(script.contains(subcommand.get_name()), "{shell}: {}", subcommand.get_name());
            for long in longs(subcommand) {
                assert!(script.contains(&long), "{shell}: {long}");
            }
        }
    }
}

#[test]
fn the_pages_are_clean_mdoc() {
    let pages = pages().into_keys().map(|name| repository().join("man").join(name));
    match Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(pages).output() {
        Ok(output) => assert!(output.status.success(), "{}", printed(output)),
        Err(error) if !must_run() => println!("SKIPPED, no mandoc: {error}"),
        Err(error) => panic!("mandoc: {error}"),
    }
}

/// A fresh home, state and working directory, gone afterwards.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("jailmk-docs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let place = Place(std::env::temp_dir().join(name));
        for directory in ["", "bin", "home", "work"] {
            fs::DirBuilder::new().mode(0o755).create(place.0.join(directory)).unwrap();
        }
        symlink(binary(), place.0.join("bin/jailmk")).unwrap();
        place
    }

    /// Runs one command line; its output with the lines that differ between hosts left out, and its status.
    fn run(&self, line: &str, state: &Path) -> (String, Option<i32>) {
        // What the README types in a clone, with the binary that is being tested.
        let line = line.replace("cargo run --release -- ", "jailmk ");
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .env_clear()
            .env("PATH", format!("{}/bin:/usr/local/bin:/usr/bin:/bin", self.0.display()))
            .env("HOME", self.0.join("home"))
            .env("JAILMK_STATE", state)
            .current_dir(self.0.join("work"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let status = output.status.code();
        let lines = printed(output);
        let varies = ["jailmk: weaker: ", "jailmk: note: "];
        let kept = lines.lines().filter(|line| !varies.iter().any(|start| line.starts_with(start)));
        (kept.map(|line| format!("{line}\n")).collect(), status)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether `line` is as `pattern` shows it.
fn is_like(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Whether `lines` are as `patterns` show them; `…` alone stands for any number of lines.
fn are_like(lines: &[&str], patterns: &[&str]) -> bool {
    match (patterns, lines) {
        ([], lines) => lines.is_empty(),
        (["…", rest @ ..], _) => (0..=lines.len()).any(|skip| are_like(&lines[skip..], rest)),
        ([pattern, patterns @ ..], [line, lines @ ..]) => is_like(line, pattern) && are_like(lines, patterns),
        _ => false,
    }
}

fn kernel_has_landlock() -> bool {
    jailmk::layer::landlock::probe().is_some()
}

/// Runs every command of `block` in one fresh place and compares what it prints.
fn holds(block: &str, state: &Path) {
    let place = Place::new();
    let mut lines = block.lines().peekable();
    while let Some(line) = lines.next() {
        let command = line.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {line}"));
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
            expected.push(line);
        }
        let (printed, status) = place.run(command, state);
        let shown =
            format!("$ {command}\n{printed}(status {status:?}), documented:\n{}", expected.join("\n"));
        if command.contains(" enter ") && !kernel_has_landlock() {
            // What the manual says of such kernels is all that can be seen on them.
            assert!(printed.contains("jailmk: cannot confine by Landlock"), "{shown}");
            continue;
        }
        let missing = command.starts_with("jailmk check") && printed.contains("MISSING");
        assert!(status == Some(0) || missing && status == Some(1), "{shown}");
        assert!(are_like(&printed.lines().collect::<Vec<_>>(), &expected), "{shown}");
    }
}

/// One test for all, so that each built-in spec is built once.
#[test]
fn every_example_runs_and_prints_what_is_shown() {
    let state = Place::new();
    let directory = state.0.join("state");
    let readme = fenced(&text("README.md"), "console");
    assert!(!readme.is_empty());
    readme.iter().for_each(|block| holds(block, &directory));
    // An emulated processor takes minutes for the manual, and would show the same as this host's.
    if !std::env::var("JAILMK_TEST_KERNEL").is_ok_and(|kernel| kernel.starts_with("6.")) {
        let shown = pages().into_values().flat_map(|page| literal(&page, "run"));
        shown.for_each(|block| holds(&block, &directory));
    }
}

#[test]
fn commands_that_are_shown_and_not_run_are_these() {
    let shown: BTreeSet<String> =
        fenced(&text("README.md"), "sh").iter().flat_map(|block| block.lines()).map(str::to_owned).collect();
    let known = [
        "scripts/test",
        "cargo install --path .",
        "install -Dm644 -t ~/.local/share/man/man1 man/*.1",
        "install -Dm644 -t ~/.local/share/man/man5 man/*.5",
        "install -Dm644 -t ~/.local/share/man/man7 man/*.7",
        "jailmk completions bash > ~/.local/share/bash-completion/completions/jailmk",
    ];
    assert_eq!(shown, known.map(str::to_owned).into());
    assert!(repository().join("scripts/test").is_file());
}

#[test]
fn the_comparison_of_examples_finds_a_difference() {
    assert!(is_like("built demo: 224 files", "built demo: … files"));
    assert!(is_like("a b c d", "a…c…"));
    assert!(!is_like("built demo: 224 dirs", "built demo: … files"));
    assert!(!is_like("x", "y"));
    assert!(are_like(&["a", "b", "c"], &["a", "…", "c"]));
    assert!(!are_like(&["a", "b", "c"], &["a", "…", "d"]));
    assert!(!are_like(&["a", "b"], &["a"]));
}
