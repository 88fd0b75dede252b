//! The vocabulary of the tests of the built-in specs: a script of many checks in one jail, for building a
//! jail takes longer than running it.

use super::{Jail, Ran, need};

/// Words of the scripts. A check that does not hold prints a line; the last line is `done`.
pub const WORDS: &str = r#"
# works NAME COMMAND...: the command succeeds.
works() {
    name=$1; shift
    out=$("$@" 2>&1 </dev/null) || echo "FAILED $name: status $?: $out"
}
# says NAME TEXT COMMAND...: it also prints just that.
says() {
    name=$1; wanted=$2; shift 2
    out=$("$@" 2>&1 </dev/null) || echo "FAILED $name: status $?: $out"
    [ "$out" = "$wanted" ] || echo "FAILED $name: \`$out\` is not \`$wanted\`"
}
# has PROGRAM: the jail has what not every host has.
has() { command -v "$1" >/dev/null; }
"#;

/// Runs a script of checks; all must hold.
#[track_caller]
pub fn holds(jail: &Jail, shell: &str, script: &str) {
    all_hold(&jail.run(&[shell, "-c", &format!("{WORDS}\n{script}\necho done")]));
}

/// The script came to its end, every check held, and neither it nor jailmk had anything to say.
#[track_caller]
pub fn all_hold(ran: &Ran) {
    assert!(ran.status == 0 && ran.stdout == "done\n", "{ran}");
    assert_eq!(ran.complaints(), Vec::<&str>::new(), "{ran}");
}

/// A jail of the specs of these names, with a workspace.
pub fn jail_of(names: &str) -> Jail {
    let text = format!("include = [{names}]\n[workspace]\npath = \".\"\nmode = \"direct\"\n");
    Jail::spec(text).variable("TERM", "xterm-256color").variable("COLORTERM", "truecolor")
}

/// Whether the host has what a spec is about; when not, that is said, and a failure where it must be there.
#[track_caller]
pub fn need_program(path: &str) -> bool {
    need(path, std::path::Path::new(path).exists(), &[])
}
