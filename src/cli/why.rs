//! `jailmk why`.

use serde_json::{Value, json};

use crate::caller::Caller;
use crate::cli::build::source_root;
use crate::cli::{Outcome, Why, print};
use crate::closure::Reason;
use crate::closure::reasons::{Because, Step};
use crate::path::{escaped, printable};
use crate::spec::Spec;
use crate::why::{Absence, Answer, Fact, Presence, position, why};

impl Why {
    /// Prints the chain from the path to the spec; 1 when the path is not in the jail.
    pub(super) fn run(self) -> Outcome {
        let spec = self.spec.load()?;
        let from = self.from.as_deref().map(|path| Caller::current().locate(path)).transpose()?;
        let answer = why(&spec, &source_root(&spec, from.as_ref())?, &self.path)?;
        let status = match answer {
            Answer::Present(_) => 0,
            Answer::Absent(_) => 1,
        };
        match (self.json, answer) {
            (true, Answer::Present(presence)) => {
                print(format_args!("{:#}\n", present_json(&spec, &presence)))?
            }
            (true, Answer::Absent(absence)) => print(format_args!("{:#}\n", absent_json(&spec, &absence)))?,
            (false, Answer::Present(presence)) => print(present_text(&spec, &presence))?,
            (false, Answer::Absent(absence)) => print(absent_text(&spec, &absence))?,
        }
        Ok(status)
    }
}

fn placed(spec: &Spec, reason: &Reason) -> String {
    position(spec, reason).map(|at| format!(" ({at})")).unwrap_or_default()
}

fn present_text(spec: &Spec, presence: &Presence) -> String {
    let Presence { path, real, outside_path, chain, .. } = presence;
    let mut text = String::new();
    if *outside_path {
        text += &format!("{path} is in the jail, but no directory of the jail's PATH leads to it\n");
    }
    if real != path {
        text += &format!("{path} is {real}\n");
    }
    for step in chain {
        let at = match &step.because {
            Because::Reason(reason) => placed(spec, reason),
            Because::Holds(_) => String::new(),
        };
        text += &format!("{step}{at}\n");
    }
    text
}

fn absent_text(spec: &Spec, absence: &Absence) -> String {
    let name = printable(absence.path.as_os_str());
    let mut text = format!("{name} is not in the jail {}\n", spec.name);
    for fact in &absence.facts {
        text += &format!("{fact}\n");
    }
    for suggestion in &absence.would_bring {
        text += &format!("[rootfs] {suggestion} would bring it\n");
    }
    text
}

fn present_json(spec: &Spec, presence: &Presence) -> Value {
    let step = |step: &Step| {
        let (mut value, reason) = match &step.because {
            Because::Holds(held) => {
                let held = held.as_path().as_os_str();
                (json!({ "holds": escaped(held) }), format!("holds {}", printable(held)))
            }
            Because::Reason(reason) => (reason_json(spec, reason), reason.to_string()),
        };
        value["path"] = escaped(step.path.as_path().as_os_str()).into();
        value["reason"] = reason.into();
        value
    };
    json!({
        "spec": spec.name,
        "path": escaped(presence.path.as_path().as_os_str()),
        "in_jail": true,
        "in_path": !presence.outside_path,
        "is": escaped(presence.real.as_path().as_os_str()),
        "chain": presence.chain.iter().map(step).collect::<Vec<Value>>(),
        "reasons": presence.reasons.iter().map(|reason| reason_json(spec, reason)).collect::<Vec<Value>>(),
    })
}

fn reason_json(spec: &Spec, reason: &Reason) -> Value {
    match reason {
        Reason::Spec { key, value } => {
            let at = position(spec, reason).map(ToString::to_string);
            json!({ "key": key, "value": escaped(value.as_ref()), "at": at })
        }
        Reason::NeededBy { by, how } => {
            json!({ "needed_by": escaped(by.as_path().as_os_str()), "how": how })
        }
        Reason::Skeleton => json!({ "every_jail": true }),
    }
}

fn absent_json(spec: &Spec, absence: &Absence) -> Value {
    let host = absence.facts.iter().find_map(|fact| match fact {
        Fact::OnHost { kind, real, owners, .. } => Some(json!({
            "is": escaped(real.as_deref().unwrap_or(&absence.path).as_os_str()),
            "kind": kind.name().rsplit(' ').next(),
            "packages": owners.as_ref().map(|owners| {
                let package = |package: &crate::closure::packages::Package| {
                    json!({
                        "name": escaped(package.name.as_ref()),
                        "version": package.version.as_ref().map(|version| escaped(version.as_ref())),
                        "architecture": package.architecture.as_ref().map(|word| escaped(word.as_ref())),
                    })
                };
                owners.iter().map(package).collect::<Vec<Value>>()
            }),
        })),
        _ => None,
    });
    let excluded = absence.facts.iter().find_map(|fact| match fact {
        Fact::Excluded { pattern, at, .. } => {
            Some(json!({ "pattern": escaped(pattern.as_ref()), "at": at.to_string() }))
        }
        _ => None,
    });
    let would_bring: Vec<Value> = absence
        .would_bring
        .iter()
        .map(|suggestion| json!({ "key": suggestion.key, "value": suggestion.value }))
        .collect();
    json!({
        "spec": spec.name,
        "path": escaped(absence.path.as_os_str()),
        "in_jail": false,
        "is": Value::Null,
        "facts": absence.facts.iter().map(ToString::to_string).collect::<Vec<String>>(),
        "source": host,
        "excluded_by": excluded,
        "would_bring": would_bring,
    })
}
