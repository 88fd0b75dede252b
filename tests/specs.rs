//! The built-in specs: what each one promises, done inside a jail of it.
//!
//! Each test is one jail and one script of many checks, for machines are slow. For the same reason one
//! jail of all specs stands for each of them there: see [`spec`].

mod jail;

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use jail::checks::{all_hold, holds, jail_of};
use jail::{Jail, need};
use jailmk::closure::root::SourceRoot;
use jailmk::closure::{self, Closure, ClosureError};
use jailmk::spec::{self, Trust, builtin};

/// The jail of all that a coding agent needs; built once.
fn composition() -> &'static Jail {
    static COMPOSITION: OnceLock<Jail> = OnceLock::new();
    COMPOSITION.get_or_init(|| jail_of(r#""shell", "python", "git", "node", "tls""#))
}

/// A jail of one spec; in machines the composition stands for it.
fn spec(name: &str) -> &'static Jail {
    match jail::kernel().as_str() {
        // It lives as long as the process; what it leaves goes with the directory of all tests.
        "host" => Box::leak(Box::new(jail_of(&format!("\"{name}\"")))),
        _ => composition(),
    }
}

const BASE: &str = r#"
include = ["base"]

[rootfs]
programs = ["sh", "date", "getent", "env", "id", "locale", "printf", "wc"]
"#;

#[test]
fn base_knows_its_user_its_locale_and_its_zone() {
    let jail = Jail::spec(BASE);
    holds(
        &jail,
        "sh",
        r#"
        says "user" agent id -un
        says "group" agent id -gn
        works "ids" id
        says "passwd" "agent:x:$(id -u):$(id -g):agent:$HOME:" sh -c 'line=$(getent passwd agent); echo "${line%:*}:"'
        says "group entry" "agent:x:$(id -g):" getent group agent
        # A bare Debian has no names of ports (package netbase).
        [ ! -e /etc/services ] || says "port by name" 443/tcp sh -c 'set -- $(getent services https); echo $2'
        works "localhost" getent hosts localhost

        # A locale that is not there is a warning on stderr and the locale C.
        says "locale" LANG=C.UTF-8 sh -c 'locale | { read line; echo "$line"; }'
        says "character set" UTF-8 locale charmap
        case "$(locale -a)" in *C.utf8*|*C.UTF-8*) ;; *) echo "FAILED locale -a: $(locale -a)";; esac
        says "characters" 1 sh -c 'printf "\303\244" | wc -m'

        says "zone" UTC date +%Z
        says "zone by name" "UTC 00:00" env TZ=UTC date -d @0 "+%Z %H:%M"
        "#,
    );
}

#[test]
fn shell_has_bash_and_the_usual_tools() {
    holds(
        spec("shell"),
        "bash",
        r##"
        cd ~
        array=(one "two three"); declare -A map=([key]=value)
        says "arrays" "2 value" echo "${#array[@]} ${map[key]}"
        printf 'b\na\n' >text
        works "colours" grep -q $'\e\\[' <(ls --color=always -d /usr)
        says "grep" 2:a grep -n '^a' text
        says "sed" $'x\na' sed -E 's/(b)/x/' text
        says "awk" 2 awk 'END { print NR }' text
        says "find, xargs, sort" $'./text\n./two' bash -c 'touch two; find . -type f -print0 | sort -z | xargs -0 -n1 echo'
        says "sort" $'a\nb' sort text
        says "tar and gzip" $'b\na' bash -c 'tar -czf t.tgz text && rm text && tar -xzf t.tgz && cat text'
        if has xz; then works "xz" bash -c 'xz -k text && xz -t text.xz && tar -cJf t.txz text'; fi
        says "diff" '1d0' bash -c 'diff text <(echo a) | head -n 1; true'
        says "less" $'b\na' less -FX text
        if has ps; then says "ps" 1 bash -c 'ps -e -o pid= | grep -cx " *1"'; fi
        says "env" value env NAME=value printenv NAME
        says "its shell" /bin/bash printenv SHELL

        printf '#!/usr/bin/env -S bash -eu\necho "$1"; false; echo no\n' >script; chmod +x script
        says "env -S" "x 1" bash -c 'echo $(./script x; echo $?)'
        printf '#!/bin/sh\necho sh\n' >script2; chmod +x script2
        says "sh" sh ./script2

        says "here-document" "at $HOME" cat <(cat <<HERE
at $HOME
HERE
)
        says "/dev/fd" here bash -c 'cat /dev/fd/3 3<<<here'
        says "process substitution out" out bash -c 'echo out > >(cat); wait $!'
        says "coprocess" back bash -c 'coproc cat; echo back >&${COPROC[1]}; read -r -u ${COPROC[0]} line; echo $line'
        says "temporary file" 0 bash -c 'f=$(mktemp) && stat -c %s "$f"'
        says "stdbuf" x stdbuf -oL echo x
        works "timeout" timeout 5 true
        says "characters" ä bash -c 'printf "%s\n" ä | grep -o "^.$"'
        if has iconv; then
            for coded in 'ISO-8859-1 \344' 'ISO-8859-15 \344' 'CP1252 \344' 'UTF-16LE \344\0' 'UTF-32BE \0\0\0\344'; do
                says "iconv from ${coded% *}" ä bash -c 'printf "$2" | iconv -f "$1" -t utf-8' - ${coded% *} "${coded#* }"
            done
            says "iconv from SJIS" あ bash -c 'printf "\202\240" | iconv -f SJIS -t utf-8'
            says "iconv to EUC-KR" $'\260\241' bash -c 'printf 가 | iconv -t EUC-KR'
            # The list of the C library has all that the host has.
            ! iconv -f IBM037 </dev/null 2>/dev/null || echo "FAILED iconv: IBM037 is here"
        fi
        if has file; then works "file" grep -q text <(file text); fi
        if has zgrep; then says "zgrep" a bash -c 'gzip -k text && zgrep a text.gz'; fi
        says "login shell" "$PATH" bash -lc 'echo $PATH'
        "##,
    );
}

#[test]
fn terminal_knows_the_usual_terminals() {
    holds(
        spec("shell"),
        "bash",
        r#"
        says "passed on" "xterm-256color truecolor" echo "$TERM $COLORTERM"
        says "xterm-256color" 256 tput -T xterm-256color colors
        says "tmux-256color" 256 tput -T tmux-256color colors
        says "screen" 8 tput -T screen colors
        says "linux" 8 tput -T linux colors
        says "dumb" 80 tput -T dumb cols
        works "clear" clear
        "#,
    );
}

/// Words of the Python scripts, as [`WORDS`].
const PYTHON: &str = r#"
def check(name, what):
    try:
        found = what()
        if found is False or found == []:
            print(f"FAILED {name}: {found!r}")
    except BaseException as error:
        print(f"FAILED {name}: {type(error).__name__}: {error}")
"#;

#[test]
fn python_has_its_standard_library() {
    let script = r##"
import importlib, os, subprocess, sys, tempfile

for name in """ssl json ctypes sqlite3 hashlib lzma bz2 zlib asyncio curses decimal email.mime.text html.parser
        http.server multiprocessing readline unittest.mock urllib.request uuid venv xml.etree.ElementTree zoneinfo
        encodings.idna mmap resource termios""".split():
    check("import " + name, lambda: importlib.import_module(name))

import ctypes, ctypes.util, grp, hashlib, locale, pwd, socket, sqlite3, zoneinfo
check("symbols of the process", lambda: ctypes.CDLL(None).getpid() == os.getpid())
if os.path.exists("/usr/sbin/ldconfig"):
    check("libraries by name", lambda: ctypes.util.find_library("c").startswith("libc.so"))
check("digests", lambda: hashlib.new("sha256", b"x").hexdigest().startswith("2d71"))
check("characters", lambda: (locale.setlocale(locale.LC_ALL, ""), sys.getfilesystemencoding()) == ("C.UTF-8", "utf-8"))
check("user", lambda: (pwd.getpwuid(os.getuid()).pw_dir, grp.getgrgid(os.getgid()).gr_name) == (os.path.expanduser("~"), "agent"))
if os.path.exists("/etc/services"):
    check("port", lambda: socket.getservbyname("https") == 443)
check("zone", lambda: str(zoneinfo.ZoneInfo("UTC")) == "UTC")

def database(path):
    base = sqlite3.connect(path)
    base.execute("pragma journal_mode = wal")
    base.execute("create table t (a)")
    base.execute("insert into t values (1)")
    base.commit()
    return base.execute("select a from t").fetchall() == [(1,)]
check("database in memory", lambda: database(":memory:"))
check("database in the home", lambda: database(os.path.expanduser("~/base")))

# The semaphore is a file in /dev/shm.
import multiprocessing
def locked():
    with semaphore: queue.put(os.getpid())
def processes():
    worker = multiprocessing.Process(target=locked)
    worker.start(); found = queue.get(); worker.join()
    return found == worker.pid
semaphore, queue = multiprocessing.Semaphore(1), multiprocessing.Queue()
check("processes", processes)

check("shell", lambda: subprocess.check_output("echo $0", shell=True, text=True) == "/bin/sh\n")
with open("/tmp/script", "w") as script:
    script.write("#!/usr/bin/env python3\nprint(1 + 2)\n")
os.chmod("/tmp/script", 0o755)
check("script", lambda: subprocess.check_output("/tmp/script", text=True) == "3\n")
check("venv", lambda: subprocess.check_call([sys.executable, "-m", "venv", "--without-pip", "/tmp/venv"]) == 0)
check("python of the venv", lambda: subprocess.check_output(
    ["/tmp/venv/bin/python", "-c", "import json, sys; print(sys.prefix)"], text=True) == "/tmp/venv\n")

# A compiled module counts only while the source's time is the one that it names.
loud = subprocess.run([sys.executable, "-v", "-c", "import json"], capture_output=True, text=True).stderr
check("compiled modules", lambda: "stale" not in loud and ("matches" in loud) == os.path.exists(importlib.util.cache_from_source(os.__file__)))
print("done")
"##;
    all_hold(&spec("python").run(&["python3", "-c", &format!("{PYTHON}{script}")]));
}

/// Runs git on the host.
fn git(directory: &Path, arguments: &[&str]) {
    let ran = Command::new("git").args(arguments).current_dir(directory).env("PATH", jail::PATH).output();
    let ran = ran.expect("start git");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// What git in a jail must do. A repository is in /workspace/origin.
const GIT: &str = r#"
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
    cd /tmp
    works "clone" git clone -q /workspace/origin clone
    works "clone by protocol" git clone -q file:///workspace/origin clone2
    cd clone
    says "log" "a first" git --no-pager log --format="%an %s"
    echo more >>file; echo >other
    says "status" " M file|?? other|" sh -c 'git status --short | tr "\n" "|"'
    says "diff" "+more" sh -c 'git --no-pager diff | sed -n "\$p"'
    works "add" git add .
    works "commit" git commit -q -m second
    works "rebase" git rebase -q --exec 'cat file >/dev/null' HEAD~1
    works "stash" sh -c 'echo >>file; git stash -q && git stash pop -q && git checkout -q file'
    works "push" git push -q /tmp/clone2 HEAD:refs/heads/pushed
    works "a command that is a script" git -c protocol.file.allow=always submodule --quiet add file:///workspace/origin sub
    works "collect garbage" git gc -q
    says "new repository" "" sh -c 'git init -q -b main /tmp/new 2>&1 && echo x >/tmp/new/.git/info/exclude && [ -d /tmp/new/.git/hooks ]'

    core=$(git --exec-path)
    for helper in git-remote-https git-submodule git-sh-setup git-upload-pack; do
        [ -r "$core/$helper" ] || echo "FAILED helper: no $core/$helper"
    done
    # Without a network that is as far as it can get: not a missing helper, not a missing library.
    for remote in https://example.invalid/x http://127.0.0.1:1/x; do
        case "$(git ls-remote $remote 2>&1)" in
        *"Could not resolve host"*|*"Failed to connect"*|*"Couldn't connect"*) ;;
        *) echo "FAILED $remote: $(git ls-remote $remote 2>&1)";;
        esac
    done
"#;

/// A repository in the workspace of `jail`.
fn commit_one(jail: &Jail) {
    let origin = jail.place.directory("here/origin");
    git(&origin, &["init", "-q", "-b", "main"]);
    std::fs::write(origin.join("file"), "text\n").expect("write a file");
    git(&origin, &["add", "file"]);
    git(&origin, &["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "first"]);
}

#[test]
fn git_clones_commits_and_reaches_for_the_network() {
    let jail = jail_of(r#""git""#);
    commit_one(&jail);
    holds(&jail, "sh", GIT);
}

/// What node in a jail must do.
const NODE: &str = r##"
const { createHash } = require("crypto"), fs = require("fs"), { execSync, spawnSync } = require("child_process");
const { Worker } = require("worker_threads"), os = require("os"), tls = require("tls"), zlib = require("zlib");
const check = (name, what) => {
    try { if (!what()) console.log("FAILED " + name); } catch (error) { console.log("FAILED " + name + ": " + error); }
};
check("digests", () => createHash("sha256").update("x").digest("hex").startsWith("2d71"));
check("files", () => { fs.writeFileSync("/tmp/file", "text"); return fs.readFileSync("/tmp/file", "utf8") === "text"; });
check("commands", () => execSync("echo $0").toString() === "/bin/sh\n");
check("itself", () => spawnSync(process.execPath, ["-p", "1"]).stdout.toString() === "1\n");
check("user", () => os.userInfo().username === "agent" && os.homedir() === process.env.HOME);
check("certificates", () => tls.rootCertificates.length > 0);
check("compression", () => zlib.gunzipSync(zlib.gzipSync("x")).toString() === "x");
check("script", () => {
    fs.writeFileSync("/tmp/script", "#!/usr/bin/env node\nconsole.log(process.argv[2])\n", { mode: 0o755 });
    return execSync("/tmp/script x").toString() === "x\n";
});
if (fs.existsSync("/usr/bin/npm")) check("npm", () => {
    fs.mkdirSync("/tmp/spoken"); fs.mkdirSync("/tmp/speaks");
    fs.writeFileSync("/tmp/spoken/package.json", '{"name": "spoken", "version": "1.0.0", "bin": "say.js"}');
    fs.writeFileSync("/tmp/spoken/say.js", '#!/usr/bin/env node\nconsole.log("spoken")\n', { mode: 0o755 });
    execSync("npm pack --silent", { cwd: "/tmp/spoken" });
    execSync("npm install --silent --offline --no-audit --no-fund ../spoken/spoken-1.0.0.tgz", { cwd: "/tmp/speaks" });
    return execSync("npx --offline spoken", { cwd: "/tmp/speaks" }).toString() === "spoken\n";
});
// Parts of Node.js that some distributions keep in files apart.
check("fetch", () => typeof fetch === "function");
const worker = new Worker('require("worker_threads").parentPort.postMessage("works")', { eval: true });
worker.on("error", error => console.log("FAILED worker: " + error));
worker.on("message", message => fetch("https://example.invalid").then(
    () => console.log("FAILED fetch: it works"),
    error => console.log(/EAI_AGAIN|ENOTFOUND|ECONN|EACCES/.test(String(error.cause)) ? "done" : "FAILED fetch: " + error.cause)));
"##;

#[test]
fn node_runs_scripts_workers_and_npm() {
    all_hold(&spec("node").run(&["node", "-e", NODE]));
}

#[test]
fn one_jail_of_all_specs_does_all_of_it() {
    let jail = composition();
    commit_one(jail);
    let script = format!(
        r#"
        {GIT}
        says "certificates" True python3 -c 'import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 0)'
        says "certificates of GnuTLS" True python3 -c '
import ctypes
try: tls = ctypes.CDLL("libgnutls.so.30")
except OSError: print(True) # a git with OpenSSL
else:
    trust = ctypes.c_void_p()
    tls.gnutls_certificate_allocate_credentials(ctypes.byref(trust))
    print(tls.gnutls_certificate_set_x509_system_trust(trust) > 0)
'
        says "links that lead nowhere" "" find -L /etc/ssl /usr/lib/ssl /usr/share/ca-certificates -type l
        says "private keys" "" find /etc /usr /var -name '*.key'
        says "node and python together" 7 sh -c 'node -p 3+4 | python3 -c "print(input())"'
        says "terminal" 256 tput colors
        "#
    );
    holds(jail, "bash", &script);
}

/// A jail of a spec that is no part of the composition: not in machines, where each one costs minutes.
fn lone(name: &str) -> Option<Jail> {
    let quick =
        jail::need("time for a jail of one more spec", jail::kernel() == "host", &["uml", "6.1", "6.12"]);
    quick.then(|| jail_of(&format!("\"{name}\"")))
}

#[test]
fn perl_has_its_standard_modules() {
    let Some(jail) = lone("perl") else { return };
    let script = r#"
        use strict; use warnings; use utf8; use open qw(:std :utf8);
        use POSIX (); use Data::Dumper; use Encode; use File::Temp; use IO::Socket; use JSON::PP; use List::Util "sum";
        use Digest::SHA "sha256_hex"; use Storable; use Time::HiRes; use threads;
        print "FAILED digest\n" unless sha256_hex("x") =~ /^2d71/;
        print "FAILED case\n" unless lc("Ä") eq "ä";
        print "FAILED thread\n" unless threads->create(sub { sum 1, 2 })->join == 3;
        print "FAILED command\n" unless `echo \$0; :` eq "sh\n";
        print "done\n";
    "#;
    all_hold(&jail.run(&["perl", "-e", script]));
}

#[test]
fn c_programs_are_compiled_linked_and_run() {
    let Some(jail) = lone("c") else { return };
    let script = r##"
        cd ~
        printf '%s\n' '#include <math.h>' '#include <pthread.h>' '#include <stdio.h>' '#include <sys/socket.h>' \
            '#include <linux/if.h>' 'int main(int n, char **a) { return printf("%s %.0f\n", a[n - 1], sqrt(n)) < 0; }' >x.c
        works "gcc" gcc -Wall -Werror -O2 -g -pthread -o x x.c -lm
        says "a program" "./x 1" ./x
        works "static" gcc -static -o s x.c -lm
        works "sanitizers" gcc -fsanitize=undefined,address -o z x.c -lm
        # Its shadow of all memory is more than a limit of each process, where that stands in for the jail's.
        [ "$(ulimit -d)" != unlimited ] || says "a sanitized program" "./z 1" ./z
        says "a static program" "./s 1" ./s
        works "link-time optimization" gcc -O2 -flto -o o x.c -lm
        works "library" sh -c 'gcc -c -o x.o x.c && ar rcs libx.a x.o && gcc -shared -fPIC -o libx.so x.c -lm'
        if has g++; then
            printf '%s\n' '#include <iostream>' '#include <regex>' '#include <thread>' 'int main() {' \
                'std::thread t([] { std::cout << std::regex_match("b", std::regex("[a-c]")) << std::endl; });' \
                't.join(); try { throw 7; } catch (int n) { return n - 7; } }' >y.cc
            works "g++" g++ -std=c++17 -o y y.cc
            says "a C++ program" 1 ./y
            works "g++ -static" g++ -static -o ys y.cc
            says "a static C++ program" 1 ./ys
        fi
        if has make; then works "make" sh -c 'printf "m: x.c\n\tcc -o m x.c -lm\n" >Makefile && make && ./m'; fi
    "##;
    holds(&jail, "bash", script);
}

#[test]
fn curl_has_its_certificates_and_reaches_for_the_network() {
    let Some(jail) = lone("curl") else { return };
    let ran = jail.run(&["curl", "-sS", "file:///etc/ssl/certs/ca-certificates.crt"]).succeeded();
    assert!(ran.stdout.contains("BEGIN CERTIFICATE"), "{ran}");
    let ran = jail.run(&["curl", "-sS", "https://example.invalid"]).ended(6);
    assert_eq!(ran.complaints(), ["curl: (6) Could not resolve host: example.invalid"]);
}

#[test]
fn ssh_makes_keys_and_reaches_for_the_network() {
    let Some(jail) = lone("ssh") else { return };
    let script = r#"
        works "ssh-keygen" ssh-keygen -q -t ed25519 -N "" -f /tmp/key
        for program in ssh sftp; do
            case "$($program -o BatchMode=yes example.invalid 2>&1 </dev/null)" in
            *"Could not resolve hostname"*) ;;
            *) echo "FAILED $program: $($program example.invalid 2>&1)";;
            esac
        done
    "#;
    holds(&jail, "sh", script);
}

#[test]
fn vim_edits_with_its_runtime_files() {
    let Some(jail) = lone("vim") else { return };
    let script = r#"
        echo hi >/tmp/text
        works "an edit" vim -E -s -c '%s/hi/ho/' -c wq /tmp/text
        read -r line </tmp/text
        [ "$line" = ho ] || echo "FAILED text: $line"
        works "highlighting" vim -E -s -c 'syntax on' -c 'set filetype=python' -c 'hi pythonStatement' -c q /tmp/text
        works "filter" vim -E -s -c '%!echo shell' -c wq /tmp/text
        read -r line </tmp/text
        [ "$line" = shell ] || echo "FAILED filter: $line"
    "#;
    holds(&jail, "sh", script);
}

/// What a user can do nothing about is no news: where the host has what a spec is about, all that it
/// names is there, runs, and finds its libraries.
#[test]
fn no_built_in_spec_has_anything_to_note() {
    let host = SourceRoot::host().expect("open the root");
    for name in builtin::names() {
        let spec = spec::load(Some(name), Trust::Owned).expect("load a built-in spec");
        let (closure, lacking) = match closure::resolve(&spec, &host) {
            Ok(closure) => (closure, false),
            Err(ClosureError::ProgramNotFound { .. }) => (Closure::default(), true),
            Err(error) => panic!("{name}: {error}"),
        };
        if need(&format!("the program of the spec {name}"), !lacking, &[]) {
            let notes: Vec<String> = closure.notes.iter().map(ToString::to_string).collect();
            assert!(notes.is_empty(), "{name}: {notes:?}");
        }
    }
}
