//! System calls made in a jail: which of them the kernel still does.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::{Jail, ground, run};

/// The compiled `probe.c`, static, so that a jail needs nothing else for it.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = ground().join("probe.c");
        let program = ground().join("probe");
        fs::write(&source, include_str!("probe.c")).expect("write a file");
        let mut compiler = Command::new("gcc");
        compiler.args(["-static", "-O1", "-w", "-o"]).arg(&program).arg(&source);
        run(compiler).succeeded();
        program
    })
}

/// A section of a spec that puts the program at /usr/bin/probe.
pub fn section() -> String {
    let program = program().display();
    format!("[rootfs]\nfiles = [{{ from = \"{program}\", to = \"/usr/bin/probe\", mode = \"0755\" }}]\n")
}

/// A jail with nothing but the program and these further sections.
pub fn jail(sections: &str) -> Jail {
    Jail::spec(format!("{}{sections}", section()))
}

/// What each line of calls comes to.
#[track_caller]
pub fn calls(jail: &Jail, lines: &[impl AsRef<str>]) -> Vec<String> {
    let input: String = lines.iter().map(|line| format!("{}\n", line.as_ref())).collect();
    let ran = jail.fed(&["probe"], input.as_bytes()).succeeded();
    let results: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
    assert_eq!(results.len(), lines.len(), "{ran}");
    results
}

/// Asserts what each line of calls comes to; `refused` stands for any error but ENOENT and EFAULT.
#[track_caller]
pub fn expect(jail: &Jail, cases: &[(&str, &str)]) {
    let lines: Vec<&str> = cases.iter().map(|(line, _)| *line).collect();
    let wrong: Vec<String> = calls(jail, &lines)
        .into_iter()
        .zip(cases)
        .filter(|(found, (_, wanted))| match *wanted {
            "refused" => !found.starts_with('E') || found == "ENOENT" || found == "EFAULT",
            wanted => found != wanted,
        })
        .map(|(found, (line, wanted))| format!("{line}: {found}, not {wanted}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
