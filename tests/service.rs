//! A jail as a service of systemd: the unit of jailmk-enter(1), "As a service", as it stands there.
//!
//! These run as root in a machine that `scripts/vm --systemd` boots.

mod jail;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jail::{Jail, binary, is_root, need, repository, tools, until};

/// The literal block of the manual page after `.\" unit`.
fn unit_of_the_manual() -> String {
    let page = fs::read_to_string(repository().join("man/jailmk-enter.1")).expect("read the manual");
    let (_, rest) = page.split_once(".\\\" unit\n").expect("a unit in the manual");
    let (_, rest) = rest.split_once('\n').expect("the line .Bd");
    let (unit, _) = rest.split_once("\n.Ed\n").expect("the line .Ed");
    unit.to_owned()
}

/// A service that is there until this is dropped.
struct Service {
    name: String,
    jail: Jail,
}

/// What `systemctl` prints.
fn systemctl(words: &[&str]) -> (bool, String) {
    let output = Command::new("systemctl").args(words).output().expect("run systemctl");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Service {
    /// The manual's unit for a jail whose command is `script`, with these further lines; `None` where systemd
    /// does not run, or not for root.
    fn new(what: &str, script: &str, settings: &str) -> Option<Service> {
        let expected = std::env::var("JAILMK_TEST_INIT").is_ok_and(|init| init == "systemd") && is_root();
        let lacking: &[&str] = if expected { &[] } else { &["host", "uml", "6.1", "6.12"] };
        if !need("root and systemd", is_root() && Path::new("/run/systemd/private").exists(), lacking) {
            return None;
        }
        let jail = Jail::spec(format!(
            "{}[process]\ncommand = [\"sh\", \"-c\", '''{script}''']\n[limits]\nmemory = \"64M\"\n",
            tools()
        ));
        jail.jailmk("build", &[]).succeeded();
        let name = format!("jailmk-test-{}-{what}.service", std::process::id());
        let unit = unit_of_the_manual();
        let spec = jail.spec_path().to_str().expect("UTF-8");
        let named = [format!("build --locked {spec}\n"), format!("enter {spec}\n")];
        let unit = unit.replace("/usr/local/bin/jailmk", binary().to_str().expect("UTF-8"));
        let unit = unit.replace("build --locked web\n", &named[0]).replace("enter web\n", &named[1]);
        assert!(named.iter().all(|line| unit.contains(line)), "{unit}");
        let service = Service { name, jail };
        let log = service.jail.place.join("log");
        // The machine of the tests has its own files elsewhere.
        let state = service.jail.state_path().display();
        let more = format!(
            "[Service]\nEnvironment=JAILMK_STATE={state}\nStandardOutput=append:{log}\nStandardError=append:{log}\n\
             RestartSec=0\n{settings}",
            log = log.display()
        );
        fs::write(service.file(), unit).expect("write a unit");
        fs::create_dir_all(service.file().with_extension("service.d")).expect("make a directory");
        fs::write(service.file().with_extension("service.d").join("test.conf"), more)
            .expect("write a drop-in");
        assert!(systemctl(&["daemon-reload"]).0);
        Some(service)
    }

    fn file(&self) -> PathBuf {
        Path::new("/run/systemd/system").join(&self.name)
    }

    /// What jail and jailmk have written.
    fn log(&self) -> String {
        fs::read_to_string(self.jail.place.join("log")).unwrap_or_default()
    }

    fn says(&self, words: &str, times: usize) {
        until(&format!("{words} is said {times} times: {}", self.log()), || {
            self.log().lines().filter(|line| *line == words).count() == times
        });
    }

    fn is(&self, property: &str) -> String {
        systemctl(&["show", "-p", property, "--value", &self.name]).1
    }

    /// The cgroups of the unit and below.
    fn group(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup/system.slice").join(&self.name)
    }

    fn leaves(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.group()).into_iter().flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups.map(|entry| entry.path()).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        systemctl(&["stop", &self.name]);
        let _ = fs::remove_file(self.file());
        let _ = fs::remove_dir_all(self.file().with_extension("service.d"));
        systemctl(&["daemon-reload"]);
    }
}

/// Tells of its signals, and takes a moment to end.
const DAEMON: &str = "trap \"echo HUP\" HUP; trap \"echo TERM; end=1\" TERM; echo ready
    while [ -z \"$end\" ]; do sleep 1 & wait $!; done; sleep 1; sleep 1; exit 0";

#[test]
fn the_unit_of_the_manual_starts_reloads_and_stops_with_one_sigterm() {
    let Some(service) = Service::new("life", DAEMON, "MemoryMax=200M\n") else { return };
    assert!(systemctl(&["start", &service.name]).0, "{}", service.log());
    service.says("ready", 1);
    assert_eq!(service.is("ActiveState"), "active");
    let leaf = service.leaves().into_iter().find(|leaf| {
        fs::read_to_string(leaf.join("memory.max")).is_ok_and(|text| text.trim() == (64 << 20).to_string())
    });
    assert!(leaf.is_some(), "{:?}", service.leaves());
    assert!(systemctl(&["reload", &service.name]).0);
    service.says("HUP", 1);
    assert!(systemctl(&["stop", &service.name]).0);
    service.says("TERM", 1);
    assert_eq!((service.is("ActiveState"), service.is("Result")), ("inactive".into(), "success".into()));
    assert!(!service.group().exists());
    assert!(!service.log().contains("do not hold"), "{}", service.log());
}

#[test]
fn the_unit_of_the_manual_starts_again_after_a_kill_and_leaves_nothing() {
    let Some(service) = Service::new("killed", DAEMON, "") else { return };
    assert!(systemctl(&["start", &service.name]).0, "{}", service.log());
    service.says("ready", 1);
    let before = service.leaves();
    let main = service.is("MainPID");
    assert!(Command::new("kill").args(["-KILL", &main]).status().expect("run kill").success());
    service.says("ready", 2);
    assert_eq!(service.is("NRestarts"), "1");
    let after = service.leaves();
    assert!(before.iter().all(|leaf| !after.contains(leaf)), "{before:?} {after:?}");
}

#[test]
fn the_unit_of_the_manual_does_not_start_when_the_host_is_not_as_the_lock_file_says() {
    let Some(service) = Service::new("locked", DAEMON, "") else { return };
    let lock = service.jail.spec_path().with_extension("lock");
    let text = fs::read_to_string(&lock).expect("read the lock file");
    let (but_the_last, _) = text.trim_end().rsplit_once('\n').expect("two lines");
    fs::write(&lock, format!("{but_the_last}\n")).expect("write the lock file");
    assert!(!systemctl(&["start", &service.name]).0, "{}", service.log());
    assert!(!service.log().contains("ready"), "{}", service.log());
}

#[test]
fn settings_that_keep_a_jail_from_being_made_are_told_with_the_cure() {
    let cases = [
        ("ProtectControlGroups=yes", "remove `ProtectControlGroups=`"),
        ("RestrictSUIDSGID=yes", "remove `RestrictSUIDSGID=`"),
        ("ProtectHostname=yes", "remove `ProtectHostname=`"),
        ("RestrictNamespaces=yes", "remove `RestrictNamespaces=`"),
        ("CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "cannot drop supplementary groups"),
    ];
    for (index, (setting, words)) in cases.into_iter().enumerate() {
        let settings = format!("Restart=no\n{setting}\n");
        let Some(service) = Service::new(&format!("refused-{index}"), "echo ready", &settings) else {
            return;
        };
        systemctl(&["start", &service.name]);
        until("the unit has ended", || ["failed", "inactive"].contains(&&*service.is("ActiveState")));
        assert!(service.log().contains(words), "{setting}: {}", service.log());
        assert!(!service.log().contains("ready"), "{setting}: {}", service.log());
    }
}

#[test]
fn settings_that_the_manual_says_to_work_beside_it_do() {
    let settings = "ProtectSystem=strict\nReadWritePaths=/tmp\nProtectKernelTunables=yes\nNoNewPrivileges=yes\n\
                    PrivateDevices=yes\nProtectProc=invisible\nProcSubset=pid\n\
                    RestrictAddressFamilies=AF_UNIX AF_INET AF_NETLINK\nOOMScoreAdjust=-500\nNice=-5\nCPUAffinity=0\n\
                    LimitNPROC=100\nLimitNOFILE=64\n";
    let Some(service) = Service::new("beside", DAEMON, settings) else { return };
    assert!(systemctl(&["start", &service.name]).0, "{}", service.log());
    service.says("ready", 1);
    assert_eq!(service.is("ActiveState"), "active");
}
