//! Which distribution a tree is of: os-release(5).

use std::path::Path;

use crate::closure::root::SourceRoot;

/// The distribution of a tree, as far as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// `ID`, for instance `debian`.
    pub id: Option<String>,
    /// `VERSION_ID`, for instance `12`; rolling ones have none.
    pub version: Option<String>,
}

impl Distribution {
    /// That of the tree `root`.
    pub fn of(root: &SourceRoot) -> Distribution {
        let files = ["/etc/os-release", "/usr/lib/os-release"];
        let text = files.iter().find_map(|path| root.read_file(Path::new(path), 64 << 10).ok());
        Distribution::parse(&text.unwrap_or_default())
    }

    fn parse(text: &[u8]) -> Distribution {
        let mut distribution = Distribution::default();
        for line in text.split(|byte| *byte == b'\n') {
            let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once('='))
            else {
                continue;
            };
            let value = value.trim().trim_matches(['"', '\'']);
            // What the manual page allows in both.
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            if value.is_empty() || value.len() > 64 || !value.chars().all(plain) {
                continue;
            }
            match key {
                "ID" => distribution.id = Some(value.to_owned()),
                "VERSION_ID" => distribution.version = Some(value.to_owned()),
                _ => {}
            }
        }
        distribution
    }

    /// As package URLs name it: `debian-12`.
    pub fn name(&self) -> Option<String> {
        let id = self.id.as_deref()?;
        Some(self.version.as_deref().map_or(id.to_owned(), |version| format!("{id}-{version}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_version_are_read_with_and_without_quotes() {
        let text = b"NAME=\"Debian\"\nVERSION_ID=\"12\"\nID=debian\nID=\"; rm\"\n";
        assert_eq!(Distribution::parse(text).name().as_deref(), Some("debian-12"));
        assert_eq!(Distribution::parse(b"ID=arch\n").name().as_deref(), Some("arch"));
        assert_eq!(Distribution::parse(b"\xff=1").name(), None);
    }
}
