//! Equal inputs make equal trees, through the binary: whoever builds, wherever and in whatever environment.

mod jail;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jail::{Jail, binary, is_root, need};

/// A directory that another user may look into.
struct Ground(PathBuf);

impl Ground {
    fn new(name: &str) -> Ground {
        let path = std::env::temp_dir().join(format!("jailmk-reproducible-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Ground(path)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = Command::new("chmod").args(["-R", "u+w"]).arg(&self.0).status();
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The whole tree as one digest: names, kinds, modes, times, targets and contents, and that all of it has one
/// owner; but not whose.
fn digest(tree: &Path) -> String {
    let script = r#"cd "$0" && test "$(find . -printf '%U:%G\n' | sort -u | wc -l)" = 1 &&
        tar --sort=name --owner=0 --group=0 --numeric-owner --hard-dereference --format=posix \
        --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf - . | sha256sum"#;
    let output = Command::new("sh").args(["-c", script]).arg(tree).output().expect("start sh");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.len() > 64, "{}", String::from_utf8_lossy(&output.stderr));
    text
}

const SPEC: &str = "name = \"same\"\ninclude = [\"shell\", \"tls\"]\n[rootfs]\nprograms = [\"python3\"]\n\
                    files = [\"/usr/lib/python3*/json/**\", { content = \"x\", to = \"/etc/x\" }]\n\
                    directories = [\"/srv\"]\n";

#[test]
fn no_umask_locale_time_zone_or_user_changes_a_byte() {
    let ground = Ground::new("same");
    let program = ground.0.join("jailmk");
    // Not by this process: what another test starts meanwhile would hold it open for writing.
    let install = Command::new("install").args(["-m", "755"]).arg(binary()).arg(&program).status();
    assert!(install.expect("start install").success());
    let spec = ground.0.join("same.toml");
    fs::write(&spec, SPEC).unwrap();
    fs::set_permissions(&spec, fs::Permissions::from_mode(0o644)).unwrap();
    let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut variants = vec![
        ("022", "C", "UTC", &[][..]),
        ("077", "C.UTF-8", "Pacific/Kiritimati", &[]),
        ("000", "tr_TR.UTF-8", "America/St_Johns", &["env"]),
    ];
    if is_root() {
        variants.push(("027", "C", "UTC", &other));
    }
    let mut found: Vec<(String, String)> = Vec::new();
    for (index, (umask, locale, zone, user)) in variants.into_iter().enumerate() {
        let own = ground.0.join(index.to_string());
        fs::create_dir(&own).unwrap();
        if user.first() == Some(&"setpriv") {
            nix::unistd::chown(&own, Some(65534.into()), Some(65534.into())).unwrap();
            let reach = Command::new(user[0]).args(&user[1..]).arg("test").arg("-x").arg(&program).status();
            if !need("a temporary directory for everybody", reach.is_ok_and(|s| s.success()), &[]) {
                continue;
            }
        }
        for (kind, options) in [("store", vec![]), ("bare", vec!["--output", "bare"])] {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("umask {umask}; exec \"$@\"")).arg("sh").args(user);
            command.arg(&program).arg("build").arg("--trust-spec").arg(&spec).arg("--json").args(options);
            command.current_dir(&own).env_clear().env("PATH", jail::PATH).env("HOME", &own);
            command.env("JAILMK_STATE", own.join("state")).env("LC_ALL", locale).env("TZ", zone);
            let ran = jail::run(command).succeeded();
            let summary: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
            let tree = Path::new(summary["tree"].as_str().unwrap());
            let lock = summary["digest"].as_str().unwrap().to_owned();
            found.push((digest(tree), lock));
            assert_eq!(found[0], *found.last().unwrap(), "{kind} {umask} {locale} {zone} {user:?}");
        }
    }
}

#[test]
fn what_has_no_time_of_its_own_gets_source_date_epoch() {
    let jail = Jail::tools("directories = [\"/srv\"]\nfiles = [{ content = \"x\", to = \"/etc/x\" }]\n");
    let times = |tree: &Path| -> Vec<i64> {
        use std::os::unix::fs::MetadataExt;
        let paths = ["srv", "etc/x", "usr/bin/cat", ""];
        paths.iter().map(|path| fs::symlink_metadata(tree.join(path)).unwrap().mtime()).collect()
    };
    let (plain, set) = (jail.place.join("plain"), jail.place.join("set"));
    jail.jailmk("build", &["--output", plain.to_str().unwrap()]).succeeded();
    assert_eq!(times(&plain), [1; 4]);
    let jail = jail.variable("SOURCE_DATE_EPOCH", "1700000000");
    jail.jailmk("build", &["--output", set.to_str().unwrap()]).succeeded();
    assert_eq!(times(&set), [1_700_000_000; 4]);
    use std::os::unix::fs::MetadataExt;
    let host = fs::metadata("/usr/bin/busybox").unwrap();
    let copied = fs::metadata(set.join("usr/bin/busybox")).unwrap();
    assert_eq!((copied.mtime(), copied.mtime_nsec()), (host.mtime(), host.mtime_nsec()));
}
