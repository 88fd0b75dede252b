//! Package URLs: `pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64&distro=debian-12`.
//!
//! Source: ECMA-427, "Package-URL", and its definitions of the types deb, apk, alpm and rpm.

use super::{Distribution, Owner};

/// The package URL of one package.
pub fn purl(owner: &Owner, distribution: &Distribution) -> String {
    let package = &owner.package;
    let mut url = format!("pkg:{}/", owner.kind);
    if let Some(id) = &distribution.id {
        url += &format!("{}/", encoded(id));
    }
    // Names of these types are lower case, but for rpm's.
    let name = match owner.kind.as_str() {
        "rpm" => package.name.clone(),
        _ => package.name.to_lowercase(),
    };
    url += &encoded(&name);
    if let Some(version) = &package.version {
        url += &format!("@{}", encoded(version));
    }
    // In the order of their names.
    let qualifiers = [
        ("arch", package.architecture.clone()),
        ("distro", distribution.name()),
        ("upstream", package.source.clone()),
    ];
    let qualifiers: Vec<String> = qualifiers
        .into_iter()
        .filter_map(|(key, value)| value.filter(|value| !value.is_empty()).map(|value| (key, value)))
        .map(|(key, value)| format!("{key}={}", encoded(&value)))
        .collect();
    if !qualifiers.is_empty() {
        url += &format!("?{}", qualifiers.join("&"));
    }
    url
}

/// Everything but letters, digits, `.-_~` and `:` as `%XX`.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                out.push(byte.into())
            }
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::packages::Package;

    #[test]
    fn a_package_has_one_url() {
        let package = Package {
            name: "libstdc++6".into(),
            version: Some("1:12.2.0-14+deb12u1".into()),
            architecture: Some("amd64".into()),
            source: Some("gcc-12".into()),
            provides: Vec::new(),
        };
        let owner = Owner { kind: "deb".into(), package };
        let debian = Distribution { id: Some("debian".into()), version: Some("12".into()) };
        assert_eq!(
            purl(&owner, &debian),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=gcc-12"
        );
    }
}
