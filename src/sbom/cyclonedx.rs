//! An inventory as CycloneDX 1.6 JSON (ECMA-424).
//!
//! The jail is the component that the document is about; the distribution's packages are components that
//! hold their files of the jail, and what no package owns stands beside them.

use serde_json::{Value, json};

use super::purl::purl;
use super::{Inventory, Item, Ownership, clean, stamp};
use crate::manifest::lock::Hex;
use crate::path::escaped;

const JAIL: &str = "jail";

/// The document.
pub fn cyclonedx(inventory: &Inventory) -> Value {
    let urls: Vec<String> =
        inventory.packages.iter().map(|owner| purl(owner, &inventory.distribution)).collect();
    let mut held: Vec<Vec<Value>> = vec![Vec::new(); urls.len()];
    let mut unowned = Vec::new();
    for item in &inventory.files {
        let mut component = file(item);
        match &item.ownership {
            Ownership::Packages(owners) => {
                // A component stands in one place; packages of several architectures share files.
                for other in &owners[1..] {
                    property(&mut component, "jailmk:also-of", &urls[*other]);
                }
                held[owners[0]].push(component);
            }
            other => {
                property(&mut component, "jailmk:origin", other.words());
                unowned.push(component);
            }
        }
    }
    let mut components = Vec::new();
    if let Some(id) = &inventory.distribution.id {
        let mut system = json!({ "type": "operating-system", "bom-ref": "operating-system", "name": id });
        if let Some(version) = &inventory.distribution.version {
            system["version"] = version.as_str().into();
        }
        components.push(system);
    }
    for ((owner, url), files) in inventory.packages.iter().zip(&urls).zip(held) {
        let mut component = json!({
            "type": "library",
            "bom-ref": url,
            "name": clean(&owner.package.name),
            "purl": url,
        });
        if let Some(version) = &owner.package.version {
            component["version"] = clean(version).into();
        }
        if let Some(source) = &owner.package.source {
            property(&mut component, "jailmk:source-package", &clean(source));
        }
        // What is only the second owner of all its files holds none.
        if !files.is_empty() {
            component["components"] = files.into();
        }
        components.push(component);
    }
    components.extend(unowned);
    let mut jail = json!({ "type": "container", "bom-ref": JAIL, "name": inventory.name });
    property(&mut jail, "jailmk:lock-digest", &format!("sha256:{}", Hex(&inventory.digest)));
    let mut metadata = json!({
        "tools": { "components": [
            { "type": "application", "name": "jailmk", "version": env!("CARGO_PKG_VERSION") },
        ] },
        "component": jail,
    });
    if let Some(time) = stamp::time() {
        metadata["timestamp"] = time.into();
    }
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": [{ "ref": JAIL, "dependsOn": urls }],
        "compositions": [
            { "aggregate": "complete", "assemblies": [JAIL] },
            // The jail has those files of a package that were asked for.
            { "aggregate": "incomplete", "assemblies": urls },
        ],
    });
    document["serialNumber"] = format!("urn:uuid:{}", stamp::uuid(&document.to_string())).into();
    document
}

fn property(component: &mut Value, name: &str, value: &str) {
    let property = json!({ "name": name, "value": value });
    match component["properties"].as_array_mut() {
        Some(properties) => properties.push(property),
        None => component["properties"] = json!([property]),
    }
}

fn file(item: &Item) -> Value {
    let path = escaped(item.path.as_path().as_os_str());
    let mut component = json!({
        "type": "file",
        "bom-ref": format!("file:{path}"),
        "name": path,
        "hashes": [
            { "alg": "SHA-1", "content": Hex(&item.sha1).to_string() },
            { "alg": "SHA-256", "content": Hex(&item.content.sha256).to_string() },
        ],
    });
    property(&mut component, "jailmk:mode", &format!("{:04o}", item.mode));
    property(&mut component, "jailmk:size", &item.content.size.to_string());
    if let Some(build_id) = &item.identity.build_id {
        property(&mut component, "jailmk:build-id", &Hex(build_id).to_string());
    }
    if let Some(package) = &item.identity.package {
        property(&mut component, "jailmk:package-note", &clean(&Value::Object(package.clone()).to_string()));
    }
    component
}
