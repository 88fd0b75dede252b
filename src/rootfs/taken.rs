//! Which paths of the host a spec has its tree built from, as far as it names them one by one: whoever writes
//! there decides what is in the next tree.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::spec::{FileRule, Spec};

/// Each of them as it is written and, where there are links on the way, as it is without.
pub(crate) fn taken(spec: &Spec) -> BTreeSet<PathBuf> {
    let named = named(spec);
    named.iter().filter_map(|path| path.canonicalize().ok()).chain(named.clone()).collect()
}

/// Each of them as it is written.
pub(crate) fn named(spec: &Spec) -> BTreeSet<PathBuf> {
    let rootfs = &spec.rootfs;
    let from = rootfs.from.iter().map(|from| from.value.clone());
    let programs = rootfs.programs.iter().map(|program| PathBuf::from(&program.value));
    let files = rootfs.files.iter().filter_map(|rule| match &rule.value {
        FileRule::Copy { from, .. } => Some(from.clone()),
        FileRule::Glob { pattern, .. } => Some(before_wildcards(pattern)),
        FileRule::Content { .. } => None,
    });
    let written = from.chain(programs).chain(files).filter(|path| path.is_absolute());
    written.map(|path| without_dots(&path)).collect()
}

/// The directory in which all matches lie.
fn before_wildcards(pattern: &str) -> PathBuf {
    let is_wild = |name: &&str| name.contains(['*', '?', '[', ']', '{', '}', '\\']);
    Path::new("/").join(pattern.split('/').take_while(|name| !is_wild(name)).collect::<PathBuf>())
}

/// As it is written: `a/../b` is `b`, whatever `a` is.
pub(crate) fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, component| {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_spec_names_on_the_host_is_taken() {
        let text = "[rootfs]\nprograms = ['sh', '/no/a/program']\nfiles = ['/no/{b,c}/x', '/no/d/*', '/no/e', \
                    { from = 'f/../g/./h', to = '/x' }, { content = '', to = '/no/y' }]\n";
        let spec = crate::spec::parse(text, "/no/spec.toml").unwrap();
        let named: Vec<PathBuf> = named(&spec).into_iter().collect();
        assert_eq!(named, ["/no", "/no/a/program", "/no/d", "/no/e", "/no/g/h"].map(PathBuf::from));
    }
}
