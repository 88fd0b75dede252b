//! What `apply` holds back: names that a program outside the jail runs, obeys or trusts without being asked.
//!
//! The table is the whole list; names are compared as a file system that ignores case would, so that none
//! can be smuggled in under another spelling. What a name protects, it protects at any depth, and with
//! everything below it.
//!
//! But for the configuration of those CI services that look for it nowhere but at the top of a repository
//! ([`Level::HeldAtTop`]): packages bring it along (`node_modules/x/.travis.yml`), where nothing reads it, and who
//! has to name such files with every `apply` learns to name all. Elsewhere it comes over with a word of warning,
//! as build instructions do, which CI runs as well. The top of a repository is the top of the workspace, also
//! where that lies in a larger repository, and each directory that holds one of [`REPOSITORIES`], on the host or by
//! the changes. What is left is that a directory which a jail prepared becomes a repository later, by the user's own
//! hand, or is split off as one: the warning was given, all else in it is the jail's, too, and nothing runs before
//! it is pushed. Services whose files are named by a setting, or by custom of monorepos lie in subdirectories
//! (GitLab, Azure, Jenkins, Drone, Buildkite, Woodpecker, CircleCI, AppVeyor), stay protected at any depth.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What is done about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Held back unless named with `--protected`.
    Held,
    /// The same at the top of a repository; elsewhere applied, with a word of warning.
    HeldAtTop,
    /// Applied, with a word of warning.
    Warned,
}

/// Names of one kind.
#[derive(Debug)]
pub struct Group {
    /// What they are.
    pub what: &'static str,
    /// What is done about them.
    pub level: Level,
    /// One name, or several joined by `/`; `*` at the beginning stands for anything.
    pub names: &'static [&'static str],
}

const fn held(what: &'static str, names: &'static [&'static str]) -> Group {
    Group { what, level: Level::Held, names }
}

const fn held_at_top(what: &'static str, names: &'static [&'static str]) -> Group {
    Group { what, level: Level::HeldAtTop, names }
}

const fn warned(what: &'static str, names: &'static [&'static str]) -> Group {
    Group { what, level: Level::Warned, names }
}

/// The built-in list. Of a git directory, which has its own rule ([`GIT`]), only objects, refs, logs, the
/// index and the heads are applied.
pub const GROUPS: &[Group] = &[
    held(
        "shell start file",
        &[
            ".bashrc",
            ".bash_profile",
            ".bash_login",
            ".bash_logout",
            ".bash_aliases",
            ".profile",
            ".zshrc",
            ".zshenv",
            ".zprofile",
            ".zlogin",
            ".zlogout",
            ".kshrc",
            ".cshrc",
            ".tcshrc",
            ".login",
            ".logout",
            ".inputrc",
            ".config/fish",
            ".xprofile",
            ".xinitrc",
            ".xsession",
            ".pam_environment",
        ],
    ),
    held("git configuration", &[".gitconfig", ".gitattributes", ".gitmodules", ".config/git"]),
    // Hooks, aliases, programs for diffs and merges; `sharedpath` says whose configuration is read as well.
    held(
        "configuration of another version control",
        &[".hg/hgrc", ".hg/hgrc-not-shared", ".hg/sharedpath", ".sl/config", ".sl/sharedpath", ".jj"],
    ),
    held(
        "git hooks",
        &[
            ".husky",
            ".githooks",
            ".pre-commit-config.yaml",
            ".pre-commit-hooks.yaml",
            "lefthook.yml",
            ".lefthook.yml",
            "lefthook.yaml",
            ".lefthook.yaml",
            "lefthook.toml",
            ".lefthook",
        ],
    ),
    held(
        "editor configuration",
        &[
            ".vscode",
            ".idea",
            ".vs",
            ".zed",
            ".fleet",
            ".helix",
            "*.code-workspace",
            "*.sublime-project",
            ".vim",
            ".vimrc",
            ".nvimrc",
            ".nvim.lua",
            ".exrc",
            ".config/nvim",
            ".emacs",
            ".emacs.d",
            ".dir-locals.el",
            ".dir-locals-2.el",
            // Run by plug-ins of vim's for whatever lies below.
            ".lvimrc",
            ".local.vimrc",
            ".ycm_extra_conf.py",
        ],
    ),
    held(
        "agent configuration",
        &[
            ".claude",
            ".claude.json",
            ".codex",
            ".gemini",
            ".cursor",
            ".cursorrules",
            ".agents",
            ".opencode",
            "opencode.json",
            "opencode.jsonc",
            ".aider.conf.yml",
            ".continue",
            ".windsurf",
            ".windsurfrules",
            ".roo",
            ".cline",
            ".clinerules",
            ".mcp.json",
            "mcp.json",
        ],
    ),
    held(
        "environment of a directory",
        &[
            ".envrc",
            ".direnv",
            ".autoenv",
            "mise.toml",
            ".mise.toml",
            "mise.local.toml",
            ".mise.local.toml",
            ".mise",
            "mise/config.toml",
            ".config/mise",
            ".config/mise.toml",
            ".tool-versions",
            // Its `path` says which programs stand in for rustc and cargo.
            "rust-toolchain",
            "rust-toolchain.toml",
        ],
    ),
    held(
        "CI configuration",
        &[
            ".github/actions",
            ".gitlab-ci.yml",
            ".gitlab",
            ".circleci",
            "azure-pipelines.yml",
            "jenkinsfile",
            ".drone.yml",
            ".buildkite",
            ".woodpecker",
            ".woodpecker.yml",
            "appveyor.yml",
            ".appveyor.yml",
        ],
    ),
    held_at_top(
        "CI configuration of a repository",
        &[".github/workflows", ".travis.yml", "bitbucket-pipelines.yml", ".forgejo", ".gitea"],
    ),
    held("container configuration", &[".devcontainer", ".devcontainer.json"]),
    held(
        "package manager configuration",
        &[
            ".cargo/config",
            ".cargo/config.toml",
            ".npmrc",
            ".yarnrc",
            ".yarnrc.yml",
            ".yarn/plugins",
            ".yarn/releases",
            ".pnpmfile.cjs",
            ".pnpmfile.mjs",
            "bunfig.toml",
            "pip.conf",
            ".pypirc",
            ".condarc",
            ".gemrc",
            ".bundle",
            ".mvn",
            // Flags for each call, and a program that stands in for it.
            ".bazelrc",
            ".bazeliskrc",
            ".bazelversion",
            "tools/bazel",
            ".netrc",
            ".curlrc",
            ".wgetrc",
        ],
    ),
    held(
        "Python environment",
        &["pyvenv.cfg", ".venv/bin", "venv/bin", "sitecustomize.py", "usercustomize.py", "*.pth"],
    ),
    held(
        "start file of a program",
        &[
            ".gdbinit",
            ".lldbinit",
            ".tmux.conf",
            ".screenrc",
            // Interpreters and debuggers read these where they are started.
            ".pdbrc",
            ".perldb",
            ".byebugrc",
            ".rdbgrc",
            ".ghci",
            ".ocamlinit",
            ".iex.exs",
            ".erlang",
            ".octaverc",
            ".psysh.php",
            ".rprofile",
            ".renviron",
            ".irbrc",
            ".pryrc",
            // Code that these load, or programs that they call, for every file looked at.
            ".pylintrc",
            "pylintrc",
            "ansible.cfg",
            ".valgrindrc",
            ".psqlrc",
            ".sqliterc",
            ".ripgreprc",
            ".config/autostart",
            ".config/systemd",
            "*.desktop",
        ],
    ),
    held("keys", &[".ssh", ".gnupg", ".aws", ".kube", ".docker"]),
    held("jailmk's spec", &["jail.toml"]),
    warned("instructions for agents", &["agents.md", "claude.md", "gemini.md", "copilot-instructions.md"]),
    warned(
        "build instructions",
        &[
            "makefile",
            "gnumakefile",
            "*.mk",
            "justfile",
            "rakefile",
            "package.json",
            "build.rs",
            "setup.py",
            "conftest.py",
            "noxfile.py",
            "dockerfile",
            "docker-compose.yml",
            "compose.yaml",
            "flake.nix",
            "build.gradle",
            "build.gradle.kts",
            "cmakelists.txt",
        ],
    ),
];

/// What makes a directory the top of a repository, as a directory or as a file that says where it is.
pub const REPOSITORIES: &[&str] = &[".git", ".hg", ".jj"];

/// What the programs of a Python environment are, which is known by its mark.
pub const PYTHON: &str = "Python environment";

/// What a git directory may be given: everything else in it is held back as this.
pub const GIT: &str = "git directory";

/// Files at the top of a git directory, or of one of its worktrees, that say where its branches are.
const GIT_FILES: &[&str] = &[
    "HEAD",
    "ORIG_HEAD",
    "FETCH_HEAD",
    "MERGE_HEAD",
    "MERGE_MSG",
    "MERGE_MODE",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "AUTO_MERGE",
    "SQUASH_MSG",
    "COMMIT_EDITMSG",
    "TAG_EDITMSG",
    "index",
    "packed-refs",
];

/// Whether a change of this path below a git directory is no more than history. What makes git take one object
/// for another, or cut history short, is not: replacements, grafts, `shallow`, alternates, and what git derives from
/// objects and then believes in their stead (commit graphs, bitmaps, the index of many packs).
pub fn is_history(below: &[&OsStr]) -> bool {
    let names: Vec<&[u8]> = below.iter().map(|name| name.as_bytes()).collect();
    let file = |name: &[u8]| GIT_FILES.iter().any(|known| known.as_bytes() == name);
    let is = |name: &[u8], known: &str| folded(OsStr::from_bytes(name)) == known;
    match names.as_slice() {
        [] | [b"objects" | b"refs" | b"logs" | b"worktrees"] | [b"worktrees", _] => true,
        [b"refs", first, ..] | [b"worktrees", _, b"refs", first, ..] if is(first, "replace") => false,
        [b"objects", first, rest @ ..] if is(first, "info") => matches!(rest, [] | [b"packs"]),
        [b"objects", first, name, ..] if is(first, "pack") && is_derived(name) => false,
        [b"objects" | b"refs" | b"logs", ..] | [b"worktrees", _, b"refs" | b"logs", ..] => true,
        [name] | [b"worktrees", _, name] => file(name),
        _ => false,
    }
}

/// Whether git makes a file beside packs from what is in them, for speed.
fn is_derived(name: &[u8]) -> bool {
    let name = folded(OsStr::from_bytes(name));
    name.starts_with("multi-pack-index") || name.ends_with(".bitmap")
}

/// What a line of `packed-refs` holds that makes an object another one.
pub const REPLACEMENT: &[u8] = b"refs/replace/";

/// Paths at the top of a workspace that are protected where they are, with what they are: each name of the
/// table that is no pattern, and what a git directory has that is not history.
pub fn at_top() -> impl Iterator<Item = (&'static str, &'static str)> {
    let held = GROUPS.iter().filter(|group| group.level != Level::Warned);
    let named = held.flat_map(|group| group.names.iter().map(|name| (*name, group.what)));
    let git = [
        ".git/config",
        ".git/config.worktree",
        ".git/hooks",
        ".git/info",
        ".git/modules",
        ".git/commondir",
        ".git/objects/info/alternates",
        ".git/refs/replace",
    ];
    named
        .filter(|(name, _)| !name.starts_with('*'))
        // The table has its names folded; these are written otherwise.
        .chain([
            ("Jenkinsfile", "CI configuration"),
            (".Rprofile", "start file of a program"),
            (".Renviron", "start file of a program"),
        ])
        .chain(git.into_iter().map(|name| (name, GIT)))
}

/// Whether a name is `.git` to some file system.
pub fn is_git(name: &OsStr) -> bool {
    matches!(folded(name).as_str(), ".git" | "git~1")
}

/// Names that the longest pattern has.
pub const LONGEST: usize = 3;

/// The group that the last of some names falls in, with those before it, and how many names that takes; the
/// strictest first.
pub fn group_at(names: &[String]) -> Option<(&'static Group, usize)> {
    let found = |level: Level| {
        GROUPS.iter().filter(move |group| group.level == level).find_map(|group| {
            group.names.iter().find_map(|pattern| {
                let length = pattern.split('/').count();
                let is = names.len() >= length
                    && names[names.len() - length..]
                        .iter()
                        .zip(pattern.split('/'))
                        .all(|(name, part)| matches(part, name));
                is.then_some((group, length))
            })
        })
    };
    [Level::Held, Level::HeldAtTop, Level::Warned].into_iter().find_map(found)
}

/// The group that would be reached through a link of this path: `.cargo` for `.cargo/config`.
pub fn group_through(names: &[String]) -> Option<&'static Group> {
    GROUPS.iter().filter(|group| group.level != Level::Warned).find(|group| {
        group.names.iter().any(|pattern| {
            let parts: Vec<&str> = pattern.split('/').collect();
            (1..parts.len()).any(|length| {
                names.len() >= length
                    && names[names.len() - length..]
                        .iter()
                        .zip(&parts)
                        .all(|(name, part)| matches(part, name))
            })
        })
    })
}

fn matches(part: &str, name: &str) -> bool {
    match part.strip_prefix('*') {
        Some(end) => name.len() > end.len() && name.ends_with(end),
        None => name == part,
    }
}

/// A name as a file system may compare it: without case, without characters that some ignore, without dots
/// and spaces at its end.
pub fn folded(name: &OsStr) -> String {
    let mut folded = String::new();
    for c in name.to_string_lossy().chars().filter(|c| !is_ignored(*c)) {
        for upper in c.to_uppercase() {
            folded.extend(upper.to_lowercase());
        }
    }
    // NTFS takes what follows a colon as the name of a stream.
    let end = folded.find(':').unwrap_or(folded.len());
    folded.truncate(end);
    folded.truncate(folded.trim_end_matches(['.', ' ']).len());
    folded
}

/// What HFS+ leaves out when it compares names (Apple technical note 1150).
fn is_ignored(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{ad}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Vec<String> {
        path.split('/').map(|name| folded(OsStr::new(name))).collect()
    }

    fn level(path: &str) -> Option<Level> {
        let names = names(path);
        let mut groups = (1..=names.len()).filter_map(|length| group_at(&names[..length]));
        let held = groups.find(|(group, _)| group.level == Level::Held);
        held.or_else(|| group_at(&names)).map(|(group, _)| group.level)
    }

    #[test]
    fn names_are_protected_at_any_depth_and_with_all_below() {
        for path in
            [".bashrc", "a/b/c/d/e/.bashrc", ".vscode/x/y", "a/.cargo/config.toml", "x.code-workspace/a"]
        {
            assert_eq!(level(path), Some(Level::Held), "{path}");
        }
        for path in ["bashrc", ".cargo/registry", "a/config.toml", ".code-workspace", "vscode"] {
            assert_eq!(level(path), None, "{path}");
        }
        assert_eq!(level("a/Makefile"), Some(Level::Warned));
        assert_eq!(level("package.json/a"), None);
        assert_eq!(level("a/.travis.yml"), Some(Level::HeldAtTop));
        assert_eq!(level("a/.gitlab-ci.yml"), Some(Level::Held));
    }

    #[test]
    fn no_other_spelling_gets_through() {
        for name in
            [".GIT", ".Git", ".g\u{200c}it", ".git.", ".git ", ".git. .", "GIT~1", ".git::$INDEX_ALLOCATION"]
        {
            assert!(is_git(OsStr::new(name)), "{name:?}");
        }
        for path in [".VSCode", ".claude\u{feff}", ".bashrc ", ".hu\u{17f}\u{212a}y"] {
            assert_eq!(level(path), Some(Level::Held), "{path:?}");
        }
        assert!(!is_git(OsStr::new("git")));
        assert!(!is_git(OsStr::new(".github")));
    }

    #[test]
    fn every_name_of_the_table_is_written_as_it_is_compared() {
        for name in GROUPS.iter().flat_map(|group| group.names) {
            assert_eq!(names(name.trim_start_matches('*')).join("/"), name.trim_start_matches('*'));
            assert!(name.split('/').count() <= LONGEST);
        }
    }

    #[test]
    fn of_a_git_directory_only_history_is_free() {
        let free = |path: &str| {
            let names: Vec<&OsStr> =
                path.split('/').filter(|name| !name.is_empty()).map(OsStr::new).collect();
            is_history(&names)
        };
        for path in
            ["", "HEAD", "index", "objects/ab/cdef", "objects/pack/a.pack", "refs/heads/a/b", "logs/HEAD"]
        {
            assert!(free(path), "{path}");
        }
        for path in
            ["worktrees/a/HEAD", "packed-refs", "refs/heads/replace", "objects/info", "objects/info/packs"]
        {
            assert!(free(path), "{path}");
        }
        for path in [
            "config",
            "hooks",
            "hooks/pre-commit",
            "info/attributes",
            "modules/a/config",
            "worktrees/a/gitdir",
            "worktrees/a/commondir",
            "worktrees/a/config.worktree",
            "objects/info/alternates",
            "objects/info/commit-graph",
            "objects/Info/commit-graphs/commit-graph-chain",
            "objects/pack/multi-pack-index",
            "objects/pack/multi-pack-index.d/a",
            "objects/pack/pack-a.bitmap",
            "refs/replace",
            "refs/Replace/a",
            "shallow",
            "info/grafts",
            "head",
            "CONFIG",
            "commondir",
            "rebase-merge/git-rebase-todo",
            "config.worktree",
        ] {
            assert!(!free(path), "{path}");
        }
    }

    #[test]
    fn a_link_in_place_of_a_directory_on_the_way_is_seen() {
        assert!(group_through(&names("a/.cargo")).is_some());
        assert!(group_through(&names(".github")).is_some());
        assert!(group_through(&names("src")).is_none());
    }
}
