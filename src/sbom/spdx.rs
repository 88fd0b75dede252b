//! An inventory as SPDX 2.3 JSON.
//!
//! The jail is a package that CONTAINS its files and the distribution's packages; a file is
//! EXPANDED_FROM_ARCHIVE its package, which itself is not analyzed: the jail has only some of its files.

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::purl::{encoded, purl};
use super::{Inventory, Item, Ownership, clean, stamp};
use crate::date::date;
use crate::manifest::lock::Hex;
use crate::path::escaped;

const JAIL: &str = "SPDXRef-Jail";
const SYSTEM: &str = "SPDXRef-OperatingSystem";

/// The document.
pub fn spdx(inventory: &Inventory) -> Value {
    let mut packages = vec![jail(inventory)];
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", JAIL)];
    if let Some(id) = &inventory.distribution.id {
        let mut system = package(SYSTEM, id, inventory.distribution.version.as_deref());
        system["primaryPackagePurpose"] = "OPERATING-SYSTEM".into();
        packages.push(system);
        relationships.push(relationship(JAIL, "CONTAINS", SYSTEM));
    }
    let identifiers: Vec<String> = inventory
        .packages
        .iter()
        .map(|owner| identifier("Package", &purl(owner, &inventory.distribution)))
        .collect();
    for (owner, id) in inventory.packages.iter().zip(&identifiers) {
        let mut package = package(id, &clean(&owner.package.name), owner.package.version.as_deref());
        package["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl(owner, &inventory.distribution),
        }]);
        if let Some(source) = &owner.package.source {
            package["sourceInfo"] = format!("built from source package {}", clean(source)).into();
        }
        packages.push(package);
        relationships.push(relationship(JAIL, "CONTAINS", id));
    }
    let mut files = Vec::new();
    for item in &inventory.files {
        let path = escaped(item.path.as_path().as_os_str());
        let id = identifier("File", &path);
        relationships.push(relationship(JAIL, "CONTAINS", &id));
        if let Ownership::Packages(owners) = &item.ownership {
            let from =
                owners.iter().map(|owner| relationship(&id, "EXPANDED_FROM_ARCHIVE", &identifiers[*owner]));
            relationships.extend(from);
        }
        files.push(file(item, &id, &path));
    }
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": inventory.name,
        "creationInfo": {
            "created": stamp::time().unwrap_or_else(|| date(0)),
            "creators": [concat!("Tool: jailmk-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "files": files,
        "relationships": relationships,
    });
    let uuid = stamp::uuid(&document.to_string());
    let namespace = format!("https://spdx.org/spdxdocs/jailmk-{}-{uuid}", encoded(&inventory.name));
    document["documentNamespace"] = namespace.into();
    document
}

/// Letters, digits, `.` and `-` only, the same for the same thing in every document.
fn identifier(kind: &str, of: &str) -> String {
    format!("SPDXRef-{kind}-{}", Hex(&Sha256::digest(of)[..16]))
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn package(id: &str, name: &str, version: Option<&str>) -> Value {
    let mut package = json!({
        "SPDXID": id,
        "name": name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    });
    if let Some(version) = version {
        package["versionInfo"] = clean(version).into();
    }
    package
}

fn jail(inventory: &Inventory) -> Value {
    let mut jail = package(JAIL, &inventory.name, None);
    jail["filesAnalyzed"] = true.into();
    jail["primaryPackagePurpose"] = "CONTAINER".into();
    jail["packageVerificationCode"] =
        json!({ "packageVerificationCodeValue": verification_code(&inventory.files) });
    jail["comment"] = format!("digest of the lock: sha256:{}", Hex(&inventory.digest)).into();
    jail
}

/// SPDX 2.3, 7.9: SHA-1 of the sorted SHA-1 of all files.
fn verification_code(files: &[Item]) -> String {
    let mut digests: Vec<String> = files.iter().map(|file| Hex(&file.sha1).to_string()).collect();
    digests.sort_unstable();
    Hex(&Sha1::digest(digests.concat())).to_string()
}

fn file(item: &Item, id: &str, path: &str) -> Value {
    let mut comments = vec![format!("mode {:04o}", item.mode)];
    if let Some(build_id) = &item.identity.build_id {
        comments.push(format!("build-id {}", Hex(build_id)));
    }
    if let Some(package) = &item.identity.package {
        comments.push(format!("package note {}", clean(&Value::Object(package.clone()).to_string())));
    }
    let words = item.ownership.words();
    comments.extend((!words.is_empty()).then(|| words.to_owned()));
    json!({
        "SPDXID": id,
        "fileName": format!(".{path}"),
        "checksums": [
            { "algorithm": "SHA1", "checksumValue": Hex(&item.sha1).to_string() },
            { "algorithm": "SHA256", "checksumValue": Hex(&item.content.sha256).to_string() },
        ],
        "licenseConcluded": "NOASSERTION",
        "licenseInfoInFiles": ["NOASSERTION"],
        "copyrightText": "NOASSERTION",
        "comment": comments.join("; "),
    })
}
