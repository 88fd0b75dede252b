//! `jailmk gc`.

use serde::Serialize;

use crate::cli::{Gc, Outcome, print};
use crate::layer::cgroup::Size;
use crate::rootfs::{Collected, Fate, Reach, Removal, State, gc};
use crate::workspace::sessions;

/// What `gc --json` prints.
#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    collected: Collected,
    /// Specs that are gone, whose place for changes is removed.
    reviews: Vec<String>,
    dry_run: bool,
}

impl Gc {
    /// Removes, or tells what would be removed.
    pub(super) fn run(self) -> Outcome {
        let reach = if self.all { Reach::All } else { Reach::Orphans };
        let removal = if self.dry_run { Removal::Pretended } else { Removal::Real };
        let state = State::open()?;
        let collected = gc(&state, reach, removal)?;
        let reviews = sessions::collect(&state, removal)?;
        if self.json {
            let summary = Summary { collected, reviews, dry_run: self.dry_run };
            print(format_args!("{:#}\n", serde_json::json!(summary)))?;
        } else {
            for spec in reviews {
                print(format_args!("remove the workspace of {spec}: it holds no changes\n"))?;
            }
            print(Told { collected: &collected, pretended: self.dry_run })?;
        }
        Ok(0)
    }
}

/// What happened, for people.
struct Told<'a> {
    collected: &'a Collected,
    pretended: bool,
}

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for trees in &self.collected.trees {
            let whose = trees.spec.as_deref().unwrap_or(&trees.directory);
            match (&trees.fate, trees.in_use) {
                (Fate::Removed, 0) => writeln!(f, "remove {whose}: {}", Generations(trees.generations))?,
                (Fate::Removed | Fate::InUse, _) => writeln!(f, "keep {whose}: a jail runs from it")?,
                (Fate::Unknown, _) => {
                    writeln!(f, "keep {whose}: where its spec is was not written down; --all removes it")?;
                }
                (Fate::Kept, _) if trees.generations > 0 => {
                    writeln!(f, "remove old trees of {whose}: {}", Generations(trees.generations))?;
                }
                (Fate::Kept, _) => {}
            }
        }
        let verb = if self.pretended { "would free" } else { "freed" };
        writeln!(f, "{verb} {} in {} files", Size(self.collected.bytes), self.collected.files)
    }
}

struct Generations(usize);

impl std::fmt::Display for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => f.write_str("1 tree"),
            count => write!(f, "{count} trees"),
        }
    }
}
