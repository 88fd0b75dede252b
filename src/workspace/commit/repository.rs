//! The host's repository: the branch, the tree that it has, and what git's rules make of a path.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::error::CommitError;
use super::git::Git;
use crate::path::{HostPath, printable};
use crate::workspace::WorkPath;

/// What a tree holds under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As git writes it: 100644, 100755, 120000, 160000.
    pub mode: String,
    /// The object's name.
    pub id: String,
}

impl Entry {
    /// Whether it is the commit of another repository.
    pub fn is_gitlink(&self) -> bool {
        self.mode == "160000"
    }
}

/// What the repository's attributes say about the content of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(HashMap<String, String>);

impl Attributes {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !matches!(*value, "unspecified" | "unset"))
    }

    /// Whether a program of the host's changes what goes into the repository.
    pub fn is_filtered(&self) -> bool {
        self.value("filter").is_some()
    }

    /// Whether git itself may write something else than the file holds; `crlf` says whether the file has a
    /// line that ends so, `nul` whether it looks binary.
    pub fn may_convert(&self, automatic: bool, crlf: bool, nul: bool) -> bool {
        if self.value("ident").is_some() || self.value("working-tree-encoding").is_some() {
            return true;
        }
        let text = self.value("text").or_else(|| self.value("crlf"));
        let unset = self.0.get("text").is_some_and(|value| value == "unset");
        let certain = self.value("eol").is_some() || text.is_some_and(|text| text != "auto");
        crlf && !unset && (certain || !nul && (text.is_some() || automatic))
    }
}

/// Names of attributes that change content.
const ATTRIBUTES: [&str; 6] = ["filter", "ident", "working-tree-encoding", "text", "crlf", "eol"];

/// The host's repository.
pub(super) struct Repository<'a> {
    git: &'a Git,
    /// Where the workspace is in it: nothing, or a path with a slash at its end.
    prefix: Vec<u8>,
    /// Its directory of objects.
    pub objects: PathBuf,
    /// sha1 or sha256.
    pub format: String,
    settings: HashMap<String, String>,
    /// The full name of the branch.
    reference: String,
    /// What the branch is now.
    old: Option<String>,
    /// What the commit comes after.
    pub parent: Option<String>,
    /// The parent's tree.
    pub tree: BTreeMap<Vec<u8>, Entry>,
    /// The host's index, below the workspace.
    index: HashMap<Vec<u8>, Entry>,
}

impl<'a> Repository<'a> {
    /// The repository that the workspace is in, for a commit on `branch`.
    ///
    /// # Errors
    /// There is none; the branch cannot be committed on; git fails.
    pub fn open(git: &'a mut Git, workspace: &HostPath, branch: &str) -> Result<Repository<'a>, CommitError> {
        let verb = "find the repository";
        let about =
            text(git.tell(verb, &args(["rev-parse", "--is-inside-work-tree", "--show-object-format"]))?);
        let Some(("true", format)) = about.trim_end().split_once('\n') else {
            return Err(CommitError::NoTree { path: workspace.clone() });
        };
        let prefix = line(git.tell(verb, &args(["rev-parse", "--show-prefix"]))?);
        let objects = ["rev-parse", "--path-format=absolute", "--git-path", "objects"];
        let objects = PathBuf::from(OsStr::from_bytes(&line(git.tell(verb, &args(objects))?)));
        // One that does not know the option says it back; it would not know how hooks are turned off either.
        if !objects.is_absolute() {
            return Err(CommitError::Old);
        }
        let settings = settings(git)?;
        // Where hooks are configuration, each is off by name.
        let hooks = settings.keys().filter_map(|key| key.strip_prefix("hook.")?.strip_suffix(".command"));
        let hooks: Vec<String> = hooks.map(|name| format!("hook.{name}.enabled")).collect();
        for hook in hooks {
            git.set(hook, "false");
        }
        let git = &*git;
        let reference = reference(git, branch)?;
        let old = resolve(git, &reference)?;
        let parent = match &old {
            Some(old) => Some(old.clone()),
            None => resolve(git, "HEAD")?,
        };
        let tree = match &parent {
            Some(parent) => {
                let verb = "read the tree";
                // MODE TYPE ID
                listed(verb, &git.tell(verb, &args(["ls-tree", "-r", "-z", "--full-tree", parent]))?, 2)?
            }
            None => BTreeMap::new(),
        };
        let verb = "read the index";
        // MODE ID STAGE
        let index = listed(verb, &git.tell(verb, &args(["ls-files", "-s", "-z"]))?, 1)?;
        let format = format.to_owned();
        Ok(Repository { git, prefix, objects, format, settings, reference, old, parent, tree, index })
    }

    /// A path of the workspace as the repository has it.
    pub fn path(&self, path: &WorkPath) -> Vec<u8> {
        [self.prefix.as_slice(), path.as_bytes()].concat()
    }

    /// Whether permission bits of the host's files mean anything.
    pub fn has_modes(&self) -> bool {
        self.settings.get("core.filemode").is_none_or(|value| is_true(value))
    }

    /// Whether git looks for the ends of lines without an attribute that says so.
    pub fn converts_lines(&self) -> bool {
        let value = self.settings.get("core.autocrlf");
        value.is_some_and(|value| value.eq_ignore_ascii_case("input") || is_true(value))
    }

    /// How the repository is shared with other users.
    pub fn shared(&self) -> Option<&str> {
        self.settings.get("core.sharedrepository").map(String::as_str)
    }

    /// Whether the host's index has the commit of another repository at, or above, a path.
    pub fn is_linked(&self, path: &WorkPath) -> bool {
        let here = self.index.get(path.as_bytes()).is_some_and(Entry::is_gitlink);
        here || path.parents().any(|above| self.index.get(above.as_bytes()).is_some_and(Entry::is_gitlink))
    }

    /// Those of the paths that git ignores: not what the index or the tree has already.
    pub fn ignored<'p>(&self, paths: &[&'p WorkPath]) -> Result<HashSet<&'p WorkPath>, CommitError> {
        let unknown = |path: &&&WorkPath| {
            !self.index.contains_key(path.as_bytes()) && !self.tree.contains_key(&self.path(path))
        };
        let unknown: Vec<&'p WorkPath> = paths.iter().filter(unknown).copied().collect();
        if unknown.is_empty() {
            return Ok(HashSet::new());
        }
        let arguments = args(["check-ignore", "-z", "--stdin", "--no-index"]);
        let said = self.git.ask("find what is ignored", &arguments, &list(HERE, &unknown), &[1])?;
        let said = said.unwrap_or_default();
        let ignored: HashSet<&[u8]> =
            said.split(|byte| *byte == 0).filter_map(|path| path.strip_prefix(HERE)).collect();
        Ok(unknown.into_iter().filter(|path| ignored.contains(path.as_bytes())).collect())
    }

    /// The attributes of each path, in their order.
    pub fn attributes(&self, paths: &[&WorkPath]) -> Result<Vec<Attributes>, CommitError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let verb = "read attributes";
        let arguments: Vec<&str> = ["check-attr", "-z", "--stdin"].into_iter().chain(ATTRIBUTES).collect();
        let said = self.git.ask(verb, &args_of(&arguments), &list(b"", paths), &[])?.unwrap_or_default();
        let fields: Vec<&[u8]> = said.split(|byte| *byte == 0).collect();
        let mut groups = fields.chunks_exact(3 * ATTRIBUTES.len());
        let mut all = Vec::with_capacity(paths.len());
        for path in paths {
            let group = groups.next().ok_or(CommitError::Answer { verb })?;
            let mut attributes = Attributes::default();
            for triple in group.chunks_exact(3) {
                let [of, name, value] = triple else { return Err(CommitError::Answer { verb }) };
                if *of != path.as_bytes() {
                    return Err(CommitError::Answer { verb });
                }
                attributes.0.insert(text(name.to_vec()), text(value.to_vec()));
            }
            all.push(attributes);
        }
        Ok(all)
    }

    /// Makes the branch be `new`, unless it was moved since it was looked at.
    pub fn move_branch(&self, new: &str, message: &str) -> Result<(), CommitError> {
        let nothing = "0".repeat(new.len());
        let old = self.old.as_deref().unwrap_or(&nothing);
        let why = format!("jailmk: {}", message.lines().next().unwrap_or_default());
        let arguments = ["update-ref", "--no-deref", "-m", &why, &self.reference, new, old];
        self.git.tell("move the branch", &args(arguments)).map(drop)
    }

    /// Paths, as the repository has them, in which a commit differs from the parent.
    pub fn differing(&self, commit: &str) -> Result<HashSet<Vec<u8>>, CommitError> {
        let verb = "compare the trees";
        let said = match &self.parent {
            Some(parent) => {
                let arguments =
                    ["diff-tree", "-r", "-z", "--no-renames", "--no-ext-diff", "--name-only", parent, commit];
                self.git.tell(verb, &args(arguments))?
            }
            None => {
                self.git.tell(verb, &args(["ls-tree", "-r", "-z", "--full-tree", "--name-only", commit]))?
            }
        };
        Ok(said.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// Who is the author and who the committer, and when, as a commit has it.
    pub fn persons(&self) -> Result<[Vec<u8>; 2], CommitError> {
        let ask = |verb, name| self.git.tell(verb, &args(["var", name])).map(line);
        Ok([ask("name the author", "GIT_AUTHOR_IDENT")?, ask("name the committer", "GIT_COMMITTER_IDENT")?])
    }

    /// The git that it is read by.
    pub fn git(&self) -> &Git {
        self.git
    }
}

/// The full name of a branch, which nobody has checked out and which is no other name of one.
fn reference(git: &Git, branch: &str) -> Result<String, CommitError> {
    let name = || printable(OsStr::new(branch)).to_string();
    let reference = format!("refs/heads/{branch}");
    let known = git.ask("check the branch's name", &args(["check-ref-format", &reference]), b"", &[1])?;
    if known.is_none() || branch.starts_with('-') || branch == "HEAD" {
        return Err(CommitError::BranchName { branch: name() });
    }
    let symbolic = git.ask("look at the branch", &args(["symbolic-ref", "-q", &reference]), b"", &[1])?;
    if symbolic.is_some() {
        return Err(CommitError::Symbolic { branch: name() });
    }
    let trees = git.tell("list the working trees", &args(["worktree", "list", "--porcelain"]))?;
    let mut place = String::new();
    for line in trees.split(|byte| *byte == b'\n') {
        if let Some(path) = line.strip_prefix(b"worktree ") {
            place = printable(OsStr::from_bytes(path)).to_string();
        } else if line.strip_prefix(b"branch ") == Some(reference.as_bytes()) {
            return Err(CommitError::CheckedOut { branch: name(), place });
        }
    }
    Ok(reference)
}

/// The object that a reference names; `None` when there is no such reference.
fn resolve(git: &Git, reference: &str) -> Result<Option<String>, CommitError> {
    let said = git.ask("read the branch", &args(["rev-parse", "--verify", "-q", reference]), b"", &[1])?;
    Ok(said.map(|said| text(line(said))))
}

/// Settings that matter here, by their names in lower case.
fn settings(git: &Git) -> Result<HashMap<String, String>, CommitError> {
    let wanted = "^(core\\.(sharedrepository|filemode|autocrlf)|hook\\..*\\.command)$";
    let said =
        git.ask("read the configuration", &args(["config", "-z", "--get-regexp", wanted]), b"", &[1])?;
    let mut settings = HashMap::new();
    for setting in said.unwrap_or_default().split(|byte| *byte == 0).filter(|setting| !setting.is_empty()) {
        let setting = text(setting.to_vec());
        // One without a value is true.
        let (key, value) = setting.split_once('\n').unwrap_or((&setting, "true"));
        settings.insert(key.to_owned(), value.to_owned());
    }
    Ok(settings)
}

fn is_true(value: &str) -> bool {
    !["false", "no", "off", "0", ""].iter().any(|no| value.eq_ignore_ascii_case(no))
}

/// Entries of a tree or of the index by their paths: `FIELD FIELD FIELD TAB PATH NUL`, of which the first field is
/// the mode and `id` the object's name.
fn listed<M>(verb: &'static str, said: &[u8], id: usize) -> Result<M, CommitError>
where
    M: FromIterator<(Vec<u8>, Entry)>,
{
    let entry = |(fields, path): (Vec<String>, Vec<u8>)| match fields.as_slice() {
        [mode, _, _] => Ok((path, Entry { mode: mode.clone(), id: fields[id].clone() })),
        _ => Err(CommitError::Answer { verb }),
    };
    entries(said).map(entry).collect()
}

fn entries(said: &[u8]) -> impl Iterator<Item = (Vec<String>, Vec<u8>)> {
    said.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()).map(|entry| {
        let tab = entry.iter().position(|byte| *byte == b'\t').unwrap_or(entry.len());
        let fields = text(entry[..tab].to_vec()).split(' ').map(str::to_owned).collect();
        (fields, entry.get(tab + 1..).unwrap_or_default().to_vec())
    })
}

/// Before a path, so that a colon at its beginning is none of git's.
const HERE: &[u8] = b"./";

/// Paths as `-z --stdin` takes them.
fn list(before: &[u8], paths: &[&WorkPath]) -> Vec<u8> {
    paths.iter().flat_map(|path| [before, path.as_bytes(), b"\0"].concat()).collect()
}

/// Arguments of git.
pub(super) fn args<const N: usize>(arguments: [&str; N]) -> [&OsStr; N] {
    arguments.map(OsStr::new)
}

fn args_of<'s>(arguments: &[&'s str]) -> Vec<&'s OsStr> {
    arguments.iter().map(|argument| OsStr::new(*argument)).collect()
}

/// What git prints as text; names of objects and modes are ASCII.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Without the end of the line, which is git's; others may be a path's.
pub(super) fn line(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    bytes
}
