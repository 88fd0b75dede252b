//! The loader in a root of its own: its cache in every format, and links that are absolute there.
//! As root, for the loader is asked behind chroot(2).

mod battery;
mod need;
mod oracle;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use jailmk::closure::ldcache::{self, CacheEntry, Hardware};
use jailmk::closure::root::SourceRoot;
use jailmk::closure::search::{Outcome, Search};
use jailmk::path::HostPath;

use battery::{Battery, runpath};

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// `name => path` as the loader in the root tells it, and as we do.
fn agree(name: &str, build: impl FnOnce(&Battery), expected: &[&str]) {
    let busybox = Path::new("/usr/bin/busybox");
    if !need::need_root() || !need::need("busybox", busybox.exists(), &[]) {
        return;
    }
    let Some(b) = Battery::new(name) else { return };
    std::fs::copy(LOADER, b.path(&LOADER[1..])).unwrap();
    std::fs::copy(busybox, b.path("bin/busybox")).unwrap();
    std::fs::create_dir_all(b.directory.join("etc")).unwrap();
    build(&b);
    let output = Command::new("/usr/sbin/chroot")
        .arg(&b.directory)
        // chroot(1) would obey the variable itself; busybox is static.
        .args(["/bin/busybox", "env", "-i", "LD_TRACE_LOADED_OBJECTS=1", "/bin/program"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let found = |line: &str| {
        let (name, found) = line.trim().split_once(" => ")?;
        let path = found.split_once(" (").map_or(found, |(path, _)| path);
        Some(format!("{name} => {path}"))
    };
    let loader: BTreeSet<String> = text.lines().filter_map(found).collect();
    assert_eq!(loader, expected.iter().map(|line| (*line).to_owned()).collect(), "{text}");

    let root = SourceRoot::open(HostPath::absolute(&b.directory).unwrap()).unwrap();
    let resolution = Search::new(&root, None).resolve(Path::new("/bin/program"), &[]).unwrap();
    let ours = resolution.edges.iter().filter(|edge| edge.dependency.name() == "DT_NEEDED");
    let ours: BTreeSet<String> = ours
        .map(|edge| match &edge.outcome {
            Outcome::Found { path: Some(path), .. } => {
                format!("{} => {}", edge.name.display(), path.display())
            }
            _ => format!("{} => not found", edge.name.display()),
        })
        .collect();
    // We find a file for every processor; the loader's is among them.
    assert!(loader.is_subset(&ours), "loader: {loader:?}\nours: {ours:?}");
    let name = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
    let with_variants: BTreeSet<String> =
        ours.iter().filter(|line| line.contains("hwcaps")).map(name).collect();
    for line in ours.difference(&loader) {
        assert!(with_variants.contains(&name(line)), "only we say {line}");
    }
}

fn entry(name: &str, path: &str, hardware: Hardware) -> CacheEntry {
    CacheEntry { name: name.into(), path: path.into(), flags: 0x0303, hardware }
}

#[test]
fn a_cache_that_we_wrote_is_the_loaders() {
    agree(
        "cache",
        |b| {
            b.library("o/liba.so", &[], &[]);
            let cache = ldcache::write(&[entry("liba.so", "/o/liba.so", Hardware::Baseline)]);
            std::fs::write(b.path("etc/ld.so.cache"), cache).unwrap();
            b.program(&["liba.so", "libb.so"], &[]);
        },
        &["liba.so => /o/liba.so", "libb.so => not found"],
    );
}

#[test]
fn hardware_variants_of_the_cache_are_found() {
    agree(
        "cache-hwcaps",
        |b| {
            b.library("o/liba.so", &[], &[]);
            b.library("o/glibc-hwcaps/x86-64-v2/liba.so", &[], &[]);
            let v2 = Hardware::Named { name: "x86-64-v2".into(), level: 0 };
            let entries = [
                entry("liba.so", "/o/liba.so", Hardware::Baseline),
                entry("liba.so", "/o/glibc-hwcaps/x86-64-v2/liba.so", v2),
            ];
            std::fs::write(b.path("etc/ld.so.cache"), ldcache::write(&entries)).unwrap();
            b.program(&["liba.so"], &[]);
        },
        &["liba.so => /o/glibc-hwcaps/x86-64-v2/liba.so"],
    );
}

#[test]
fn a_stale_cache_gives_way_to_the_default_directories() {
    agree(
        "cache-stale",
        |b| {
            b.library("usr/lib/liba.so", &[], &[]);
            b.library("o/liba.so", &[], &[]);
            // Of two alike only the first is tried, and it is gone.
            let entries = [
                entry("liba.so", "/a/liba.so", Hardware::Baseline),
                entry("liba.so", "/o/liba.so", Hardware::Baseline),
            ];
            std::fs::write(b.path("etc/ld.so.cache"), ldcache::write(&entries)).unwrap();
            b.program(&["liba.so"], &[]);
        },
        &["liba.so => /usr/lib/liba.so"],
    );
}

#[test]
fn a_cache_of_the_old_format_is_read() {
    agree(
        "cache-old",
        |b| {
            b.library("o/liba.so", &[], &[]);
            let strings = b"liba.so\0/o/liba.so\0";
            let mut cache = b"ld.so-1.7.0\0".to_vec();
            for number in [1u32, 0x0303, 0, 8] {
                cache.extend(number.to_ne_bytes());
            }
            cache.extend(strings);
            std::fs::write(b.path("etc/ld.so.cache"), cache).unwrap();
            b.program(&["liba.so"], &[]);
        },
        &["liba.so => /o/liba.so"],
    );
}

#[test]
fn a_cache_for_another_abi_counts_for_nothing() {
    agree(
        "cache-abi",
        |b| {
            b.library("o/liba.so", &[], &[]);
            let other = CacheEntry { flags: 0x0803, ..entry("liba.so", "/o/liba.so", Hardware::Baseline) };
            std::fs::write(b.path("etc/ld.so.cache"), ldcache::write(&[other])).unwrap();
            b.program(&["liba.so"], &[]);
        },
        &["liba.so => not found"],
    );
}

#[test]
fn nodeflib_leaves_out_what_the_cache_has_below_a_default_directory() {
    agree(
        "cache-nodeflib",
        |b| {
            b.library("usr/lib/sub/liba.so", &[], &[]);
            b.library("o/libb.so", &[], &[]);
            let entries = [
                entry("liba.so", "/usr/lib/sub/liba.so", Hardware::Baseline),
                entry("libb.so", "/o/libb.so", Hardware::Baseline),
            ];
            std::fs::write(b.path("etc/ld.so.cache"), ldcache::write(&entries)).unwrap();
            b.program(&["liba.so", "libb.so"], &["-Wl,-z,nodefaultlib"]);
        },
        &["liba.so => not found", "libb.so => /o/libb.so"],
    );
}

#[test]
fn absolute_links_stay_in_the_root() {
    agree(
        "links",
        |b| {
            b.library("opt/real/liba.so", &["libb.so"], &[runpath(), rpath_to!("$ORIGIN/sub")]);
            b.library("opt/link/sub/libb.so", &[], &[]);
            b.library("opt/real/sub/libc1.so", &[], &[]);
            symlink("/opt/real/liba.so", b.path("opt/link/liba.so")).unwrap();
            symlink("/opt/link", b.path("l")).unwrap();
            b.program(&["liba.so"], &[runpath(), rpath_to!("/l")]);
        },
        &["liba.so => /l/liba.so", "libb.so => /l/sub/libb.so"],
    );
}

#[test]
fn a_library_that_is_asked_for_by_two_names_is_in_the_jail_by_both() {
    let busybox = Path::new("/usr/bin/busybox");
    if !need::need("busybox", busybox.exists(), &[]) {
        return;
    }
    let Some(b) = Battery::new("names") else { return };
    let tree = b.directory.join("tree");
    std::fs::copy(LOADER, b.path(&format!("tree{LOADER}"))).unwrap();
    std::fs::copy(busybox, b.path("tree/bin/busybox")).unwrap();
    // One file, two names; the loader opens it once and would not tell of the second.
    b.library("tree/o/liba.so.1.2", &[], &["nameless"]);
    symlink("liba.so.1.2", b.path("tree/o/liba.so")).unwrap();
    symlink("liba.so", b.path("tree/o/libalias.so")).unwrap();
    b.link("tree/bin/program", &["liba.so", "libalias.so"], &[runpath(), rpath_to!("/o")]);
    let spec = b.path("spec.toml");
    std::fs::write(&spec, "[rootfs]\nprograms = [\"/bin/program\", \"/bin/busybox\"]\n").unwrap();
    let binary = std::env::var_os("JAILMK_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_jailmk").into());
    let out = b.directory.join("out");
    let output = Command::new(binary)
        .args(["build", "--trust-spec", "--from"])
        .args([&tree, Path::new("--output"), &out, &spec])
        .env("JAILMK_STATE", b.directory.join("state"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for name in ["liba.so", "libalias.so"] {
        let link = std::fs::symlink_metadata(out.join("o").join(name)).unwrap();
        assert!(link.is_symlink() && out.join("o").join(name).exists(), "{name}");
    }
    if need::need_root() {
        let traced = Command::new("/usr/sbin/chroot")
            .arg(&out)
            .args(["/bin/busybox", "env", "-i", "LD_TRACE_LOADED_OBJECTS=1", "/bin/program"])
            .output()
            .unwrap();
        let text = String::from_utf8(traced.stdout).unwrap();
        assert!(text.contains("liba.so") && !text.contains("not found"), "{text}");
    }
}

#[test]
fn variables_that_the_spec_sets_count_and_the_hosts_preload_does_not() {
    let Some(b) = Battery::new("variables") else { return };
    std::fs::copy(LOADER, b.path(&format!("tree{LOADER}"))).unwrap();
    b.library("tree/e/liba.so", &[], &[]);
    b.library("tree/e/libp.so", &[], &[]);
    b.link("tree/bin/program", &["liba.so"], &[]);
    std::fs::write(b.path("tree/etc/ld.so.preload"), "/e/libhost.so\n").unwrap();
    std::fs::write(b.path("tree/etc/other"), "").unwrap();
    let spec = b.path("spec.toml");
    let binary = std::env::var_os("JAILMK_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_jailmk").into());
    let build = |text: &str| {
        std::fs::write(&spec, text).unwrap();
        let mut build = Command::new(&binary);
        build.args(["build", "--dry-run", "--trust-spec", "--from"]).arg(b.directory.join("tree"));
        build.arg("--output").arg(b.directory.join("out")).arg(&spec).env("LD_LIBRARY_PATH", "/e");
        build.output().unwrap()
    };
    let rootfs = "[rootfs]\nprograms = [\"/bin/program\"]\nfiles = [\"/etc/**\"]\n";
    assert!(!build(rootfs).status.success(), "the caller's own variable does not count");
    let set = "[process.env]\nLD_LIBRARY_PATH = \"/e\"\nLD_PRELOAD = \"libp.so\"\n";
    let output = build(&format!("{rootfs}{set}"));
    let (lock, talk) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{talk}");
    for (path, there) in
        [("/e/liba.so", true), ("/e/libp.so", true), ("/etc/other", true), ("ld.so.preload", false)]
    {
        assert_eq!(lock.contains(path), there, "{path} in {lock}");
    }
    assert!(talk.contains("/etc/ld.so.preload is left out"), "{talk}");
}
