//! The layers, each weighed by its step of the plan.

use super::{Limited, Row};
use crate::jail::mounted::Mounted;
use crate::jail::plan::{Plan, Step};
use crate::layer::identity::Standing;
use crate::layer::seccomp;
use crate::path::printable;
use crate::spec::{Capability, Demand, SeccompProfile, Spec};

/// What a layer is called, and what it leaves open when its step is not in the plan.
const LAYERS: &[(&str, u32)] = &[
    ("user", 50),
    ("supervision", 5),
    ("cgroup namespace", 5),
    ("host name", 1),
    ("keyring", 10),
    ("mount propagation", 20),
    ("root", 50),
    ("/proc", 20),
    ("/proc masks", 20),
    ("writable places", 10),
    ("/dev", 20),
    ("nested namespaces", 20),
    ("pivot_root", 50),
    ("session", 20),
    ("process limits", 10),
    ("no_new_privs", 30),
    ("Landlock", 20),
    ("capabilities", 50),
    ("descriptors", 30),
    ("sealed tree", 10),
    ("system calls", 40),
];

/// One row for each layer, in the order of the steps.
pub(super) fn of_plan(plan: &Plan) -> Vec<Row> {
    let mut rows: Vec<Row> = plan.steps.iter().filter_map(|step| weigh(step, plan)).collect();
    for (name, most) in LAYERS {
        if !rows.iter().any(|row| row.name == *name) {
            rows.push(missing(name, *most));
        }
    }
    rows.insert(0, network(plan));
    rows.insert(0, namespaces(plan));
    rows
}

fn missing(name: &str, most: u32) -> Row {
    let row = Row::new(name, most, most, "not used");
    match name {
        "Landlock" => row.advice("landlock = \"required\" under [hardening], on a kernel that has it"),
        _ => row,
    }
}

/// What a step holds back; `None` for the steps that belong to another's row.
fn weigh(step: &Step, plan: &Plan) -> Option<Row> {
    let shut = |name: &str, found: String| {
        let most = LAYERS.iter().find(|(layer, _)| *layer == name).map_or(0, |(_, most)| *most);
        Some(Row::new(name, 0, most, found))
    };
    let open = |name: &str, exposure: u32, found: String| {
        shut(name, found).map(|row| Row { exposure: super::Points(exposure).min(row.most), ..row })
    };
    let words = step.to_string();
    match step {
        Step::BecomeInside => match plan.identity.standing {
            Standing::Operator => shut("user", "an unprivileged uid of the jail's own".into()),
            Standing::Ordinary => {
                let row = open(
                    "user",
                    1,
                    "the caller's uid: what is mounted is reached with the caller's rights".into(),
                );
                row.map(|row| row.advice("only root can give a jail a uid of its own"))
            }
        },
        Step::DieWithSupervisor => shut("supervision", words),
        Step::CgroupNamespace => shut("cgroup namespace", words),
        Step::HostName(_) => shut("host name", words),
        Step::SessionKeyring => shut("keyring", words),
        Step::PrivateMounts => shut("mount propagation", words),
        Step::Root(tree) if tree.flags.read_only && tree.flags.nodev => {
            shut("root", "read-only, nosuid, nodev".into())
        }
        Step::Root(_) => open("root", 50, "can be written".into()),
        Step::Proc(_) => shut("/proc", "the jail's processes only".into()),
        Step::CoverProc => shut("/proc masks", words),
        Step::Scratch(_) => {
            shut("writable places", "in memory, of bounded size, forgotten at the end".into())
        }
        Step::Devices(_) => shut("/dev", "six harmless devices, own pseudoterminals".into()),
        Step::NoNamespaces => shut("nested namespaces", words),
        Step::PivotRoot => shut("pivot_root", words),
        Step::Session => shut("session", "the caller's terminal is out of reach".into()),
        Step::Resources(limits) if limits.crash_starts_helper() => {
            let row = open("process limits", 5, format!("{words}; a crash starts the host's helper"));
            row.map(|row| row.advice("a hard limit of core files above 0 for jailmk"))
        }
        Step::Resources(_) => shut("process limits", words),
        Step::NoNewPrivileges => shut("no_new_privs", words),
        Step::Landlock(landlock) => {
            let lacking = landlock.lacking();
            if lacking.is_empty() {
                return shut("Landlock", format!("ABI {}, all that a jail needs", landlock.abi()));
            }
            let found = format!("ABI {}, which cannot confine {}", landlock.abi(), lacking.join(", "));
            let row = open("Landlock", 2 * u32::try_from(lacking.len()).unwrap_or(10), found);
            row.map(|row| row.advice("a newer kernel: `jailmk check` says which"))
        }
        Step::Capabilities(capabilities) => {
            let kept = capabilities.kept();
            if kept.is_empty() {
                return shut("capabilities", "none, and none can be gained".into());
            }
            let weight = |capability: &Capability| match capability {
                Capability::NetBindService => 1,
                Capability::SysChroot => 2,
            };
            let names: Vec<&str> = kept.iter().map(|capability| capability.name()).collect();
            let found = format!("{}, in the jail's own namespaces", names.join(", "));
            let row = open("capabilities", kept.iter().map(weight).sum(), found);
            row.map(|row| row.advice("take out of `keep` under [hardening] what the command can do without"))
        }
        Step::Descriptors => shut("descriptors", words),
        Step::AwaitProceed => {
            shut("sealed tree", "compared with what was built before the command starts".into())
        }
        Step::Seccomp(filter) => system_calls(filter, open),
        // Weighed as mounts, as the network, or part of another step.
        Step::Mount(Mounted::Host(_) | Mounted::Overlay(_) | Mounted::Hidden(_) | Mounted::Tmpfs(_))
        | Step::Loopback
        | Step::Terminal
        | Step::Signals
        | Step::Directory(_) => None,
    }
}

fn system_calls(filter: &seccomp::Armed, open: impl Fn(&str, u32, String) -> Option<Row>) -> Option<Row> {
    let allowed = filter.allowed();
    match filter.name() {
        SeccompProfile::Strict => open("system calls", 1, format!("strict profile, {allowed} allowed")),
        SeccompProfile::Default => {
            let found =
                format!("default profile, {allowed} allowed: debuggers, memory that is written and then run");
            let row = open("system calls", 2, found);
            row.map(|row| {
                row.advice("seccomp = \"strict\" under [hardening], if the command compiles nothing")
            })
        }
        SeccompProfile::File(file) => {
            let path = printable(file.path.as_os_str());
            let unknown = filter.profile().map(|profile| profile.unknown().join(", ")).unwrap_or_default();
            let unknown = if unknown.is_empty() { unknown } else { format!("; no system calls: {unknown}") };
            open("system calls", 2, format!("default profile and {path}, {allowed} allowed{unknown}"))
        }
    }
}

fn namespaces(plan: &Plan) -> Row {
    let flags = plan.namespaces.flags();
    let kinds = [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("PID", libc::CLONE_NEWPID),
        ("IPC", libc::CLONE_NEWIPC),
        ("UTS", libc::CLONE_NEWUTS),
    ];
    let shared: Vec<&str> =
        kinds.iter().filter(|(_, flag)| flags & flag == 0).map(|(name, _)| *name).collect();
    match shared.as_slice() {
        [] => Row::new("namespaces", 0, 50, "user, mount, PID, IPC and UTS of its own"),
        shared => Row::new("namespaces", 50, 50, format!("the host's {}", shared.join(", "))),
    }
}

fn network(plan: &Plan) -> Row {
    const MOST: u32 = 30;
    let landlock = plan.steps.iter().find_map(|step| match step {
        Step::Landlock(landlock) => Some(landlock),
        _ => None,
    });
    if !plan.namespaces.has_own_network() {
        let row = match landlock.is_some_and(|landlock| landlock.scopes_abstract_sockets()) {
            true => Row::new("network", 20, MOST, "the host's: the internet, its own network, its loopback"),
            false => Row::new(
                "network",
                30,
                MOST,
                "the host's: the internet, its own network, its loopback, its abstract sockets",
            ),
        };
        return row.advice("mode = \"none\" under [network], if the command needs none");
    }
    match landlock.is_some_and(|landlock| landlock.denies_tcp()) {
        true => Row::new("network", 0, MOST, "its own loopback, and no TCP"),
        false => Row::new("network", 1, MOST, "its own loopback"),
    }
}

/// What is no step of the plan.
pub(super) fn of_spec(spec: &Spec, limited: Limited) -> Vec<Row> {
    vec![limits(spec, limited), environment(spec), may_be_missing(spec)]
}

fn limits(spec: &Spec, limited: Limited) -> Row {
    const MOST: u32 = 20;
    let limits = &spec.limits;
    let unwritten: Vec<&str> = [
        ("memory", limits.memory.is_none()),
        ("cpus", limits.cpus.is_none()),
        ("disk", limits.disk.is_none()),
    ]
    .into_iter()
    .filter_map(|(name, unwritten)| unwritten.then_some(name))
    .collect();
    let exposure = u32::try_from(unwritten.len()).unwrap_or(3);
    let mut found = match unwritten.as_slice() {
        [] => "memory, cpus and disk are written".to_owned(),
        unwritten => format!("defaults for {}", unwritten.join(", ")),
    };
    if limited == Limited::EachProcess {
        found.push_str("; no cgroup here, so each process is limited and not the jail");
        return Row::new("limits", exposure + 10, MOST, found)
            .advice("a cgroup v2 that is delegated: `jailmk check` names the cure");
    }
    Row::new("limits", exposure, MOST, found).advice("write them under [limits]")
}

/// Variables that say how output looks, and nothing about the caller.
const HARMLESS: &[&str] = &[
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "COLUMNS",
    "LINES",
    "LANG",
    "LANGUAGE",
    "TZ",
    "PAGER",
    "EDITOR",
    "VISUAL",
];

fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name) || name.starts_with("LC_")
}

/// Parts of a name by which secrets, and the ways to services outside, are called.
fn is_secret(name: &str) -> bool {
    const WORDS: &[&str] = &["TOKEN", "SECRET", "PASSW", "PASSPHRASE", "CREDENTIAL", "COOKIE", "AUTH"];
    const KEYS: &[&str] = &["KEY", "APIKEY", "PAT"];
    let name = name.to_ascii_uppercase();
    WORDS.iter().any(|word| name.contains(word))
        || name.split('_').any(|part| KEYS.contains(&part))
        || ["DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DOCKER_HOST"]
            .contains(&name.as_str())
}

fn environment(spec: &Spec) -> Row {
    const MOST: u32 = 30;
    let passed = spec.process.pass_env.iter().map(String::as_str).filter(|name| !is_harmless(name));
    let (secret, other): (Vec<&str>, Vec<&str>) = passed.partition(|name| is_secret(name));
    let written: Vec<&str> =
        spec.process.env.keys().map(String::as_str).filter(|name| is_secret(name)).collect();
    let count = |list: &[&str], each: usize| u32::try_from(list.len() * each).unwrap_or(MOST);
    let mut found = Vec::new();
    for (list, words) in
        [(&secret, "passed secrets"), (&written, "secrets in the spec's text"), (&other, "passed")]
    {
        if !list.is_empty() {
            let names: Vec<String> = list.iter().map(|name| printable(name.as_ref()).to_string()).collect();
            found.push(format!("{words}: {}", names.join(", ")));
        }
    }
    let exposure = count(&secret, 5) + count(&written, 5) + count(&other, 1);
    match found.is_empty() {
        true => Row::new("environment", 0, MOST, "nothing of the caller's but how output looks"),
        false => Row::new("environment", exposure, MOST, found.join("; "))
            .advice("pass by `pass_env` what the command cannot do without"),
    }
}

fn may_be_missing(spec: &Spec) -> Row {
    let hardening = &spec.hardening;
    let mut layers: Vec<String> =
        hardening.degrade.iter().map(|layer| format!("{layer:?}").to_lowercase()).collect();
    if hardening.landlock == Demand::BestEffort && !layers.iter().any(|layer| layer == "landlock") {
        layers.push("landlock".into());
    }
    let exposure = 3 * u32::try_from(layers.len()).unwrap_or(3);
    match layers.is_empty() {
        true => Row::new("may be missing", 0, 10, "no layer: where one cannot be had, nothing runs"),
        false => Row::new("may be missing", exposure, 10, format!("{}, on hosts without", layers.join(", ")))
            .advice("take it out of `degrade` under [hardening], and `landlock = \"required\"`"),
    }
}
