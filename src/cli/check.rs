//! `jailmk check`: what this host can enforce, and what a spec leaves open on it.

use serde::Serialize;

use crate::cli::enter::Start;
use crate::cli::{Check, Failure, Outcome, print};
use crate::error::{Causes, StageError};
use crate::exposure::{self, Exposure, Limited, Points, Word};
use crate::host::{self, Finding, Status};
use crate::layer::cgroup;
use crate::spec::{Spec, Trust};
use crate::workspace::journal::Time;

impl Check {
    /// Prints the table of this host, or that of a spec; 1 when a jail cannot be entered, or is too open.
    pub(super) fn run(self) -> Outcome {
        // Before anything else: the probes want a process of one thread.
        let findings = host::check();
        match &self.spec {
            Some(name) => {
                let trust = if self.trust_spec { Trust::Any } else { Trust::Owned };
                self.weigh(crate::spec::load(Some(name), trust)?, &findings)
            }
            None => self.tell(&findings),
        }
    }

    fn tell(&self, findings: &[Finding]) -> Outcome {
        if self.json {
            print(format_args!("{:#}\n", serde_json::json!(findings)))?;
        } else {
            print(host::Table(findings))?;
        }
        Ok(u8::from(findings.iter().any(|finding| finding.status == Status::Missing)))
    }

    fn weigh(&self, spec: Spec, findings: &[Finding]) -> Outcome {
        let start = Start::of(spec, Vec::new(), None, Time::now()).map_err(Failure::of_other)?;
        let mut obstacles = Vec::new();
        let mut weaker = Vec::new();
        let limited = start.try_limits(&mut obstacles, &mut weaker);
        let exposure = match start.plan() {
            Ok(plan) => {
                obstacles.extend(exposure::lacking(&plan, findings).into_iter().map(Obstacle::of_finding));
                Some(Exposure::of(&plan, &start.spec, &start.caller, limited))
            }
            // Of a jail that there cannot be there is no plan to be weighed.
            Err(failure) => {
                obstacles.push(Obstacle::of_error(&*failure.error));
                None
            }
        };
        let verdict = Verdict { spec: &start.spec.name, exposure, obstacles, limited, weaker };
        if self.json {
            print(format_args!("{:#}\n", serde_json::json!(Json::of(&verdict))))?;
        } else {
            print(&verdict)?;
        }
        Ok(u8::from(verdict.fails(self.threshold)))
    }
}

/// A reason why a jail cannot be entered on this host.
#[derive(Debug, Serialize)]
pub(super) struct Obstacle {
    reason: String,
    cures: Vec<String>,
}

impl Obstacle {
    fn of_finding(finding: &Finding) -> Obstacle {
        let reason = format!("{}: {}; needed for {}", finding.name, finding.detail, finding.needed_for);
        Obstacle { reason, cures: finding.cure.iter().cloned().collect() }
    }

    fn of_error(error: &dyn StageError) -> Obstacle {
        Obstacle { reason: Causes(&error).to_string(), cures: error.hints() }
    }
}

impl Start {
    /// Whether limits that are written can be had, by making the cgroup and removing it again.
    fn try_limits(&self, obstacles: &mut Vec<Obstacle>, weaker: &mut Vec<String>) -> Limited {
        match self.limits.arm(&self.spec.name) {
            Ok(cgroup::Outcome::Armed(armed)) => {
                weaker.extend(armed.weaker());
                if let Err(error) = armed.remove() {
                    obstacles.push(Obstacle::of_error(&error));
                }
                Limited::Together
            }
            Ok(cgroup::Outcome::Unavailable { .. }) => Limited::EachProcess,
            Err(_) if self.may_lack_cgroup() => Limited::EachProcess,
            Err(error) => {
                obstacles.push(Obstacle::of_error(&error));
                Limited::EachProcess
            }
        }
    }
}

struct Verdict<'a> {
    spec: &'a str,
    exposure: Option<Exposure>,
    obstacles: Vec<Obstacle>,
    limited: Limited,
    /// Of the cgroup, as `enter` would tell it.
    weaker: Vec<String>,
}

impl Verdict<'_> {
    fn fails(&self, threshold: Option<Points>) -> bool {
        let above = |exposure: &Exposure| threshold.is_some_and(|most| exposure.total > most);
        !self.obstacles.is_empty() || self.exposure.as_ref().is_none_or(above)
    }
}

impl std::fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(exposure) = &self.exposure {
            exposure.fmt(f)?;
        }
        self.weaker.iter().try_for_each(|line| writeln!(f, "weaker: {line}"))?;
        if self.obstacles.is_empty() {
            let limits = match self.limited {
                Limited::Together => "every layer that it asks for",
                Limited::EachProcess => "limits of each process instead of the jail's",
            };
            return writeln!(f, "{} can be entered on this host, with {limits}", self.spec);
        }
        writeln!(f, "{} cannot be entered on this host:", self.spec)?;
        for obstacle in &self.obstacles {
            writeln!(f, "  {}", obstacle.reason)?;
            obstacle.cures.iter().try_for_each(|cure| writeln!(f, "  cure: {cure}"))?;
        }
        Ok(())
    }
}

/// The same for programs.
#[derive(Serialize)]
struct Json<'a> {
    spec: &'a str,
    exposure: Option<Points>,
    word: Option<Word>,
    rows: &'a [exposure::Row],
    enforceable: bool,
    obstacles: &'a [Obstacle],
    weaker: &'a [String],
}

impl<'a> Json<'a> {
    fn of(verdict: &'a Verdict<'a>) -> Json<'a> {
        let exposure = verdict.exposure.as_ref();
        Json {
            spec: verdict.spec,
            exposure: exposure.map(|exposure| exposure.total),
            word: exposure.map(|exposure| exposure.word),
            rows: exposure.map_or(&[], |exposure| &exposure.rows),
            enforceable: verdict.obstacles.is_empty(),
            obstacles: &verdict.obstacles,
            weaker: &verdict.weaker,
        }
    }
}
