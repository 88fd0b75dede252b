//! The specs that come with jailmk, embedded in it.

const SPECS: &[(&str, &str)] = &[
    ("base", include_str!("../../rootfs-specs/base.toml")),
    ("c", include_str!("../../rootfs-specs/c.toml")),
    ("curl", include_str!("../../rootfs-specs/curl.toml")),
    ("git", include_str!("../../rootfs-specs/git.toml")),
    ("go", include_str!("../../rootfs-specs/go.toml")),
    ("java", include_str!("../../rootfs-specs/java.toml")),
    ("nginx", include_str!("../../rootfs-specs/nginx.toml")),
    ("node", include_str!("../../rootfs-specs/node.toml")),
    ("perl", include_str!("../../rootfs-specs/perl.toml")),
    ("postgres", include_str!("../../rootfs-specs/postgres.toml")),
    ("prebuilt", include_str!("../../rootfs-specs/prebuilt.toml")),
    ("python", include_str!("../../rootfs-specs/python.toml")),
    ("redis", include_str!("../../rootfs-specs/redis.toml")),
    ("ruby", include_str!("../../rootfs-specs/ruby.toml")),
    ("rust", include_str!("../../rootfs-specs/rust.toml")),
    ("shell", include_str!("../../rootfs-specs/shell.toml")),
    ("ssh", include_str!("../../rootfs-specs/ssh.toml")),
    ("terminal", include_str!("../../rootfs-specs/terminal.toml")),
    ("tls", include_str!("../../rootfs-specs/tls.toml")),
    ("uv", include_str!("../../rootfs-specs/uv.toml")),
    ("vim", include_str!("../../rootfs-specs/vim.toml")),
];

/// The names of the built-in specs, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    SPECS.iter().map(|(name, _)| *name)
}

/// The text of a built-in spec.
pub fn text(name: &str) -> Option<&'static str> {
    find(name).map(|(_, text)| text)
}

/// The name and the text, both as embedded.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    SPECS.iter().find(|(known, _)| *known == name).copied()
}
