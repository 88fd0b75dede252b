//! The built-in specs of compilers and interpreters: each makes and runs a program in a jail without a
//! network, as somebody who works with the language would.

mod jail;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jail::Jail;
use jail::checks::{holds, jail_of, need_program};

#[test]
fn ruby_has_its_standard_library_and_makes_gems() {
    if !need_program("/usr/bin/ruby") {
        return;
    }
    let jail = jail_of(r#""ruby""#);
    jail.place.file("here/library.rb", LIBRARY_OF_RUBY);
    jail.place.file("here/spoken.gemspec", GEM);
    jail.place.file("here/lib/spoken.rb", "module Spoken; def self.word = 'spoken'; end\n");
    let script = r#"
        says "standard library" "" ruby library.rb
        case "$(gem list)" in *json*) ;; *) echo "FAILED gem list: $(gem list)";; esac
        works "irb" irb --version
        works "ri" ri --version
        works "rake" sh -c 'echo "task(:default) { File.write %q(made), %q() }" >Rakefile && rake && [ -e made ]'
        works "gem build" gem build spoken.gemspec
        works "gem install" gem install --local --user-install --no-document spoken-1.0.gem
        says "a gem" spoken ruby -e 'require "spoken"; puts Spoken.word'
    "#;
    holds(&jail, "sh", script);
}

const GEM: &str = r#"
Gem::Specification.new do |gem|
  gem.name, gem.version, gem.summary, gem.authors = "spoken", "1.0", "words", ["a"]
  gem.license, gem.homepage, gem.description = "MIT", "https://example.org", "words of a test"
  gem.files = ["lib/spoken.rb"]
end
"#;

/// Prints what does not work.
const LIBRARY_OF_RUBY: &str = r#"
%w[bigdecimal date digest erb etc fiddle io/console json net/http open3 openssl psych
   readline reline ripper set socket stringio strscan tempfile yaml zlib].each do |name|
  require name
rescue LoadError => error
  puts "FAILED require #{name}: #{error}"
end

def check(name, wanted)
  found = yield
  puts "FAILED #{name}: #{found.inspect}" if found != wanted
rescue Exception => error
  puts "FAILED #{name}: #{error.class}: #{error}"
end
check("user", "agent") { Etc.getpwuid.name }
check("digest", "2d71") { OpenSSL::Digest::SHA256.hexdigest("x")[0, 4] }
check("cipher", 32) { OpenSSL::Cipher.new("aes-256-gcm").encrypt.key_len }
check("compression", "x") { Zlib::Inflate.inflate(Zlib::Deflate.deflate("x")) }
check("shell", "sh\n") { `echo $0; :` }
check("locale", Encoding::UTF_8) { Encoding.default_external }
check("character sets", ["\xe4".b, "\x82\xa0".b]) do
  ["ä".encode("ISO-8859-1").b, "あ".encode("Shift_JIS").b]
end
check("C function", $$) { Fiddle::Function.new(Fiddle.dlopen(nil)["getpid"], [], Fiddle::TYPE_INT).call }
check("yaml", 1) { YAML.load("a: 1")["a"] }
check("json", { "a" => [1] }) { JSON.parse(JSON.generate("a" => [1])) }
check("process", 7) { Process.wait(fork { exit! 7 }); $?.exitstatus }
check("thread", 3) { Thread.new { 1 + 2 }.value }
check("socket", "x\n") do
  UNIXServer.open("/tmp/socket") do |server|
    client = UNIXSocket.new("/tmp/socket")
    server.accept.puts("x")
    client.gets
  end
end
check("zone", 0) { Time.now.utc_offset }
"#;

#[test]
fn java_is_compiled_packed_and_run() {
    if !need_program("/usr/bin/javac") {
        return;
    }
    let jail = jail_of(r#""java""#);
    jail.place.file("here/Main.java", JAVA);
    let script = r#"
        works "javac" javac -Xlint:all -Werror --release 11 -d /tmp/classes Main.java
        works "jar" jar --create --file /tmp/main.jar --main-class Main -C /tmp/classes .
        says "a program" "" java -jar /tmp/main.jar
        case "$(jcmd -l)" in *jcmd*) ;; *) echo "FAILED jcmd: $(jcmd -l)";; esac
        works "keytool" keytool -genkeypair -alias a -dname CN=a -keyalg EC -storepass secret -keystore /tmp/store
    "#;
    holds(&jail, "sh", script);
}

/// Prints what does not work.
const JAVA: &str = r#"
import java.nio.charset.Charset;
import java.nio.file.*;
import java.security.*;
import java.time.*;
import java.util.concurrent.*;
import javax.net.ssl.*;

public class Main {
    static void check(String name, Object wanted, Callable<Object> what) {
        try {
            Object found = what.call();
            if (!wanted.equals(found)) System.out.println("FAILED " + name + ": " + found);
        } catch (Throwable error) {
            System.out.println("FAILED " + name + ": " + error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        check("user", "agent", () -> System.getProperty("user.name"));
        check("home", "/home/agent", () -> System.getProperty("user.home"));
        check("files", "text", () -> {
            Path path = Files.createTempFile("a", "b");
            Files.write(path, "text".getBytes());
            return new String(Files.readAllBytes(path));
        });
        check("digest", 32, () -> MessageDigest.getInstance("SHA-256").digest().length);
        check("randomness", 8, () -> SecureRandom.getInstanceStrong().generateSeed(8).length);
        check("certificates", true, () -> {
            TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            trust.init((KeyStore) null);
            return ((X509TrustManager) trust.getTrustManagers()[0]).getAcceptedIssuers().length > 0;
        });
        check("tls", true, () -> SSLContext.getDefault().getSupportedSSLParameters().getProtocols().length > 0);
        check("zone", "+02:00", () ->
            ZoneId.of("Europe/Berlin").getRules().getOffset(Instant.parse("2020-07-01T00:00:00Z")).getId());
        check("character sets", "ä", () -> new String(new byte[] { (byte) 0xe4 }, Charset.forName("windows-1252")));
        check("compression", 2, () -> new java.util.zip.Inflater().inflate(new byte[0]) + 2);
        check("process", 7, () -> new ProcessBuilder("sh", "-c", "exit 7").start().waitFor());
        check("threads", 3, () -> CompletableFuture.supplyAsync(() -> 1 + 2).get());
        check("headless graphics", 2, () -> {
            java.awt.image.BufferedImage image = new java.awt.image.BufferedImage(2, 2, 1);
            image.createGraphics().fillRect(0, 0, 1, 1);
            return image.getWidth();
        });
        check("just-in-time compiler", true, () -> {
            long sum = 0;
            for (int i = 0; i < 20_000_000; i++) sum += i % 7;
            return sum > 0;
        });
    }
}
"#;

#[test]
fn rust_is_built_tested_and_run_by_cargo() {
    if !need_program("/usr/bin/rustc") || !need_program("/usr/bin/cargo") {
        return;
    }
    let jail = jail_of(r#""rust""#);
    let script = r##"
        cd ~
        works "cargo new" cargo new --quiet --vcs none --name made made
        cd made
        echo 'fn main() { println!("cargo:rustc-env=MADE=by-a-build-script"); }' >build.rs
        printf '%s\n' 'fn main() { println!("{} {}", env!("MADE"), sum(&[1, 2])); }' \
            'fn sum(of: &[i32]) -> i32 { std::thread::scope(|scope| scope.spawn(|| of.iter().sum()).join().unwrap()) }' \
            '#[test] fn sums() { assert_eq!(sum(&[1, 2]), 3); }' >src/main.rs
        works "cargo build" cargo build --quiet --offline
        says "a program" "by-a-build-script 3" ./target/debug/made
        works "cargo test" cargo test --quiet --offline
        says "optimized" "by-a-build-script 3" cargo run --quiet --offline --release

        echo '#[no_mangle] pub extern "C" fn three() -> i32 { 3 }' >three.rs
        works "a static library" rustc -C panic=abort --crate-type staticlib three.rs
        printf '%s\n' 'int three(void); int main(void) { return three(); }' >main.c
        says "called from C" 3 sh -c 'gcc -o main main.c libthree.a && ./main; echo $?'
    "##;
    holds(&jail, "bash", script);
}

#[test]
fn go_is_vetted_built_tested_and_run() {
    if !need_program("/usr/bin/go") {
        return;
    }
    let jail = jail_of(r#""go""#);
    jail.place.file("here/go.mod", "module example.org/made\n\ngo 1.19\n");
    jail.place.file("here/main.go", GO);
    jail.place.file("here/main_test.go", GO_TEST);
    let script = r#"
        says "gofmt" "" gofmt -l .
        works "go vet" go vet ./...
        works "go build" go build -o /tmp/made .
        says "a program" "" /tmp/made
        works "go test" go test ./...
        says "what it is" "example.org/made" go list
        # The first of the files that crypto/x509 looks for; it reads no other then.
        works "certificates" [ -s /etc/ssl/certs/ca-certificates.crt ]
    "#;
    holds(&jail, "sh", script);
}

/// Prints what does not work.
const GO: &str = r#"package main

import (
	"fmt"
	"os/user"
	"time"
)

func check(name string, wanted any, found any, err error) {
	if err != nil || wanted != found {
		fmt.Println("FAILED", name, found, err)
	}
}

func sum(of ...int) int {
	out := make(chan int)
	for _, one := range of {
		go func(one int) { out <- one }(one)
	}
	all := 0
	for range of {
		all += <-out
	}
	return all
}

func main() {
	check("goroutines", 6, sum(1, 2, 3), nil)
	name, err := user.Current()
	check("user", "agent", name.Username, err)
	_, err = time.LoadLocation("UTC")
	check("zone", nil, nil, err)
}
"#;

const GO_TEST: &str = r#"package main

import "testing"

func TestSum(t *testing.T) {
	if sum(1, 2) != 3 {
		t.Fatal("sum")
	}
}
"#;

/// A wheel and a source distribution of it, made with nothing but the standard library.
const PACKAGE: &str = r#"
import tarfile, zipfile, io, sys
def wheel(path):
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("spoken.py", "def word():\n    return 'spoken'\ndef say():\n    print(word())\n")
        info = "spoken-1.0.dist-info/"
        made.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: spoken\nVersion: 1.0\n")
        made.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(info + "entry_points.txt", "[console_scripts]\nsay = spoken:say\n")
        made.writestr(info + "RECORD", "".join(name + ",,\n" for name in made.namelist() + [info + "RECORD"]))
# What a build front end calls, of a backend that is part of the source.
def build_wheel(directory, config_settings=None, metadata_directory=None):
    wheel(directory + "/spoken-1.0-py3-none-any.whl")
    return "spoken-1.0-py3-none-any.whl"
if __name__ == "__main__":
    build_wheel(".")
    with tarfile.open("spoken-1.0.tar.gz", "w:gz") as made:
        for name, text in {
            "backend.py": open("package.py").read(),
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
                '[project]\nname = "spoken"\nversion = "1.0"\n',
            "PKG-INFO": "Metadata-Version: 2.1\nName: spoken\nVersion: 1.0\n",
        }.items():
            entry = tarfile.TarInfo("spoken-1.0/" + name)
            entry.size = len(text)
            made.addfile(entry, io.BytesIO(text.encode()))
"#;

#[test]
fn pip_installs_into_a_virtual_environment() {
    if !need_program("/usr/share/python-wheels") {
        return;
    }
    let jail = jail_of(r#""python""#);
    jail.place.file("here/package.py", PACKAGE);
    let script = r#"
        works "a package" python3 package.py
        works "venv" python3 -m venv /tmp/venv
        works "a wheel" /tmp/venv/bin/pip install --quiet --no-index ./spoken-1.0-py3-none-any.whl
        says "installed" spoken /tmp/venv/bin/python -c 'import spoken; print(spoken.word())'
        works "uninstalled" /tmp/venv/bin/pip uninstall --quiet --yes spoken
        works "a source" /tmp/venv/bin/pip install --quiet --no-index ./spoken-1.0.tar.gz
        says "built and installed" spoken /tmp/venv/bin/python -c 'import spoken; print(spoken.word())'
    "#;
    holds(&jail, "sh", script);
}

/// What uv must do in a jail.
const UV: &str = r#"
    export UV_OFFLINE=1 UV_NO_PROGRESS=1
    works "a package" python3 package.py
    works "uv venv" uv venv --quiet /tmp/venv
    export VIRTUAL_ENV=/tmp/venv
    works "a wheel" uv pip install --quiet --no-index ./spoken-1.0-py3-none-any.whl
    says "installed" spoken /tmp/venv/bin/python -c 'import spoken; print(spoken.word())'
    says "its script" spoken /tmp/venv/bin/say
    works "uninstalled" uv pip uninstall --quiet spoken
    works "a source" uv pip install --quiet --no-index ./spoken-1.0.tar.gz
    says "built and installed" spoken /tmp/venv/bin/python -c 'import spoken; print(spoken.word())'
    says "uv run" 3 uv run --quiet --no-project python -c 'print(1 + 2)'
"#;

fn python_version() -> Option<(PathBuf, String)> {
    let program = fs::canonicalize("/usr/bin/python3").ok()?;
    let name = program.file_name()?.to_str()?.to_owned();
    Some((program, name))
}

#[test]
fn uv_makes_environments_and_installs_into_them() {
    if !need_program("/usr/local/bin/uv") {
        return;
    }
    let jail = jail_of(r#""uv""#);
    jail.place.file("here/package.py", PACKAGE);
    holds(&jail, "sh", UV);
}

/// As the comment in the spec says: uv in the caller's home, and a Python that it manages there, which
/// looks for its library from where it is itself and counts on what PEP 600 promises.
#[test]
fn uv_and_its_pythons_come_from_the_home_by_mounts() {
    if !need_program("/usr/local/bin/uv") {
        return;
    }
    let Some((python, version)) = python_version() else { return };
    let jail = Jail::spec(MOUNTED_UV);
    jail.place.file("here/package.py", PACKAGE);
    let uv = jail.place.directory("home/.local/bin").join("uv");
    fs::copy("/usr/local/bin/uv", uv).expect("copy uv");
    let managed = jail.place.directory(format!(
        "home/.local/share/uv/python/cpython-{}.0-linux-{}-gnu",
        version.trim_start_matches("python"),
        std::env::consts::ARCH,
    ));
    copy_tree(&Path::new("/usr/lib").join(&version), &managed.join("lib").join(&version));
    fs::create_dir(managed.join("bin")).expect("make a directory");
    let program = managed.join("bin").join(&version);
    fs::copy(python, &program).expect("copy python");
    let script = format!(
        r#"
        {UV}
        says "a managed Python" /home/agent/.local/share/uv/python/ sh -c 'unset VIRTUAL_ENV; path=$(uv python find --managed-python); echo "${{path%%cpython*}}"'
        works "an environment of it" uv venv --quiet --managed-python /tmp/managed
        says "its library" {version} sh -c '/tmp/managed/bin/python -c "import os, sys; print(os.path.basename(os.path.dirname(os.__file__)))"'
        "#
    );
    holds(&jail, "sh", &script);
}

/// Without the uv that the host has where builds look.
const MOUNTED_UV: &str = r#"
include = ["uv"]

[rootfs]
exclude = ["/usr/{bin,local/bin}/{uv,uvx}"]

[[mount]]
from = "~/.local/bin/uv"
to = "/usr/local/bin/uv"

[[mount]]
from = "~/.local/share/uv/python"
to = "/home/agent/.local/share/uv/python"

[workspace]
path = "."
mode = "direct"
"#;

/// The modules of a Python without what a test of it does not need.
fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("read a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if !["__pycache__", "test", "idlelib", "tkinter", "lib2to3"].iter().any(|left| name == *left) {
                copy_tree(&path, &to.join(name));
            }
        } else if path.is_file() {
            fs::copy(&path, to.join(&name)).expect("copy a file");
            fs::set_permissions(to.join(name), fs::Permissions::from_mode(0o644)).expect("set permissions");
        }
    }
}

/// Of the libraries that only older programs ask for: since its version 2.34 the C library has what they had.
const OLD: [&str; 4] = ["libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"];

#[test]
fn programs_that_were_built_elsewhere_find_their_libraries() {
    if !need_program("/usr/bin/gcc") {
        return;
    }
    let jail = jail_of(r#""prebuilt""#);
    let main = jail.place.file("main.c", "int main(void) { return 7; }");
    let mut link = vec!["-Wl,--no-as-needed".to_owned(), main.display().to_string()];
    for name in OLD {
        let library = jail.place.join(name);
        gcc(&["-shared", "-xc", "/dev/null", &format!("-Wl,-soname,{name}"), "-o", path(&library)]);
        link.push(library.display().to_string());
    }
    let program = jail.place.join("here/old");
    link.extend(["-lm".to_owned(), "-lgcc_s".to_owned(), "-o".to_owned(), program.display().to_string()]);
    gcc(&link.iter().map(String::as_str).collect::<Vec<_>>());
    jail.run(&["/workspace/old"]).ended(7);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn gcc(arguments: &[&str]) {
    let ran = Command::new("gcc").args(arguments).env("PATH", jail::PATH).output().expect("start gcc");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
