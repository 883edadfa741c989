//! The objects of a fake API server: create, replace, merge patch, server-side apply, delete, and a log for watches.
//!
//! What it has in common with the real one is what the operator relies on: resource versions that change only when
//! something changed, generations, uids, 409 for a stale version or a name that is taken, preconditions of a delete,
//! fields that leave an applied configuration leave the object, status apart from the rest, finalizers.

use std::collections::BTreeMap;

use kvnode_operator::clock;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// `resource` is `<group>/<plural>`, the group empty for the core.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    fn not_found(key: &Key) -> Self {
        Self::new(404, "NotFound", format!("{} {:?} not found", key.resource, key.name))
    }

    fn conflict(key: &Key, what: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {what}", key.resource, key.name);
        Self::new(409, "Conflict", message)
    }
}

pub(crate) type Answer = Result<Value, Refusal>;

/// One line of the watch log.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) kind: &'static str,
    pub(crate) key: Key,
    pub(crate) object: Value,
}

#[derive(Default)]
pub(crate) struct Objects {
    all: BTreeMap<Key, Value>,
    applied: BTreeMap<(Key, String, bool), Value>,
    version: u64,
    /// How often each name was taken.
    made: BTreeMap<Key, u64>,
    addresses: u64,
    pub(crate) log: Vec<Change>,
    /// The version, for those who wait for a change.
    pub(crate) changed: watch::Sender<u64>,
}

impl Objects {
    /// An address that no pod had before; of the loopback, so that nodes can be served on it.
    pub(crate) fn address(&mut self) -> String {
        self.addresses += 1;
        format!("127.90.{}.{}", self.addresses / 250, self.addresses % 250 + 1)
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn get(&self, key: &Key) -> Answer {
        self.all.get(key).cloned().ok_or_else(|| Refusal::not_found(key))
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        self.all.contains_key(key)
    }

    /// All of a resource, where they are: a copy of each has a price with many clusters.
    pub(crate) fn each(&self, resource: &str) -> impl Iterator<Item = (&Key, &Value)> {
        let from = self.all.range(Key::new(resource, "", "")..);
        from.take_while(move |(key, _)| key.resource == resource)
    }

    /// All of a resource, in one namespace or (with "") in all, that have these labels.
    pub(crate) fn list(&self, resource: &str, namespace: &str, labels: &[(String, String)]) -> Vec<Value> {
        let found = self.each(resource).filter(|(key, object)| {
            (namespace.is_empty() || key.namespace == namespace)
                && labels.iter().all(|(name, value)| object["metadata"]["labels"][name] == json!(value))
        });
        found.map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn create(&mut self, key: &Key, mut object: Value) -> Answer {
        if self.all.contains_key(key) {
            let message = format!("{} {:?} already exists", key.resource, key.name);
            return Err(Refusal::new(409, "AlreadyExists", message));
        }
        // Of the name and of how often there was one: the same whatever else was made before, another one for each object.
        let made = self.made.entry(key.clone()).or_default();
        *made += 1;
        let uid = format!("uid-{}-{}-{}-{made}", key.resource.replace('/', "."), key.namespace, key.name);
        object["metadata"]["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(key.namespace);
        }
        object["metadata"]["uid"] = json!(uid);
        object["metadata"]["creationTimestamp"] = json!(clock::wall().to_string());
        object["metadata"]["generation"] = json!(1);
        Ok(self.keep("ADDED", key, object))
    }

    pub(crate) fn replace(&mut self, key: &Key, object: &Value, status: bool) -> Answer {
        let old = self.get(key)?;
        check_version(key, &old, object)?;
        let mut new = old.clone();
        if status {
            new["status"] = object["status"].clone();
        } else {
            let kept = old.get("status").cloned();
            new = object.clone();
            for system in ["uid", "creationTimestamp", "generation", "namespace"] {
                if let Some(value) = old["metadata"].get(system) {
                    new["metadata"][system] = value.clone();
                }
            }
            put(&mut new, "status", kept);
        }
        Ok(self.update(key, &old, new))
    }

    /// RFC 7396.
    pub(crate) fn merge(&mut self, key: &Key, patch: &Value, status: bool) -> Answer {
        let old = self.get(key)?;
        check_version(key, &old, patch)?;
        check_uid(key, &old, patch["metadata"]["uid"].as_str())?;
        let mut new = old.clone();
        if status {
            merge_patch(&mut new["status"], &patch["status"]);
        } else {
            merge_patch(&mut new, patch);
            put(&mut new, "status", old.get("status").cloned());
        }
        Ok(self.update(key, &old, new))
    }

    /// The subresource of pods: amounts of a container, found by its name. Only those that it has may change.
    pub(crate) fn resize(&mut self, key: &Key, patch: &Value) -> Answer {
        let old = self.get(key)?;
        check_uid(key, &old, patch["metadata"]["uid"].as_str())?;
        let mut new = old.clone();
        let invalid = |what: &str| Refusal::new(422, "Invalid", format!("Pod is invalid: {what}"));
        let wanted = &patch["spec"]["containers"][0];
        let containers = new["spec"]["containers"].as_array_mut().ok_or_else(|| invalid("no containers"))?;
        let container = containers.iter_mut().find(|container| container["name"] == wanted["name"]);
        let container = container.ok_or_else(|| invalid("no such container"))?;
        if !container["resources"].is_object() {
            return Err(invalid("Pod QOS Class may not change as a result of resizing"));
        }
        merge_patch(&mut container["resources"], &wanted["resources"]);
        Ok(self.update(key, &old, new))
    }

    pub(crate) fn apply(&mut self, key: &Key, patch: &Value, manager: &str, status: bool) -> Answer {
        let owner = (key.clone(), manager.to_owned(), status);
        let mut only = if status { json!({ "status": patch["status"] }) } else { without_status(patch) };
        if let Some(metadata) = only.get_mut("metadata") {
            put(metadata, "uid", None);
            put(metadata, "resourceVersion", None);
        }
        if status || self.all.contains_key(key) {
            let old = self.get(key)?;
            check_version(key, &old, patch)?;
            check_uid(key, &old, patch["metadata"]["uid"].as_str())?;
            let mut new = old.clone();
            if let Some(before) = self.applied.get(&owner) {
                let others = self.applied.iter().filter(|(other, _)| other.0 == owner.0 && **other != owner);
                let others: Vec<&Value> = others.map(|(_, applied)| applied).collect();
                disown(&mut new, before, &only, &others);
            }
            lay_over(&mut new, &only);
            put(&mut new["metadata"], "resourceVersion", old["metadata"].get("resourceVersion").cloned());
            self.applied.insert(owner, only);
            return Ok(self.update(key, &old, new));
        }
        if patch["metadata"].get("resourceVersion").is_some() {
            return Err(Refusal::not_found(key));
        }
        let made = self.create(key, only.clone())?;
        self.applied.insert(owner, only);
        Ok(made)
    }

    pub(crate) fn delete(&mut self, key: &Key, options: &Value) -> Answer {
        let old = self.get(key)?;
        check_uid(key, &old, options["preconditions"]["uid"].as_str())?;
        if let Some(expected) = options["preconditions"]["resourceVersion"].as_str()
            && old["metadata"]["resourceVersion"] != json!(expected)
        {
            return Err(Refusal::conflict(key, "the resourceVersion in the precondition is another one"));
        }
        if is_held(&old) {
            let mut going = old.clone();
            going["metadata"]["deletionTimestamp"] = json!("2026-11-22T12:30:00Z");
            return Ok(self.update(key, &old, going));
        }
        Ok(self.remove(key, old))
    }

    fn remove(&mut self, key: &Key, old: Value) -> Value {
        self.all.remove(key);
        self.applied.retain(|(of, _, _), _| of != key);
        self.version += 1;
        self.note("DELETED", key, old.clone());
        old
    }

    fn update(&mut self, key: &Key, old: &Value, mut new: Value) -> Value {
        if without_version(&new) == without_version(old) {
            return old.clone();
        }
        if new.get("spec") != old.get("spec") {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(1);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        let goes = new["metadata"].get("deletionTimestamp").is_some();
        if goes && !is_held(&new) { self.remove(key, new) } else { self.keep("MODIFIED", key, new) }
    }

    fn keep(&mut self, kind: &'static str, key: &Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.all.insert(key.clone(), object.clone());
        self.note(kind, key, object.clone());
        object
    }

    fn note(&mut self, kind: &'static str, key: &Key, object: Value) {
        self.log.push(Change { version: self.version, kind, key: key.clone(), object });
        self.changed.send_replace(self.version);
    }
}

/// Has finalizers.
fn is_held(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|names| !names.is_empty())
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => map.insert(field.into(), value),
        None => map.remove(field),
    };
}

fn without_status(object: &Value) -> Value {
    let mut copy = object.clone();
    put(&mut copy, "status", None);
    copy
}

fn without_version(object: &Value) -> Value {
    let mut copy = object.clone();
    put(&mut copy["metadata"], "resourceVersion", None);
    copy
}

fn check_version(key: &Key, old: &Value, new: &Value) -> Result<(), Refusal> {
    match new["metadata"].get("resourceVersion").and_then(Value::as_str) {
        Some(version) if old["metadata"]["resourceVersion"] != json!(version) => {
            Err(Refusal::conflict(key, "the object has been modified"))
        }
        _ => Ok(()),
    }
}

fn check_uid(key: &Key, old: &Value, uid: Option<&str>) -> Result<(), Refusal> {
    match uid {
        Some(uid) if old["metadata"]["uid"] != json!(uid) => {
            Err(Refusal::conflict(key, "the UID in the precondition is another one"))
        }
        _ => Ok(()),
    }
}

fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (field, value) in patch {
        if value.is_null() {
            put(target, field, None);
        } else {
            merge_patch(&mut target[field], value);
        }
    }
}

/// The one list here whose elements have owners of their own, by type.
const CONDITIONS: &str = "conditions";

/// Applied over what is there: maps deeply, conditions by type, everything else as a whole.
fn lay_over(target: &mut Value, applied: &Value) {
    match (target.is_object(), applied) {
        (true, Value::Object(fields)) => {
            for (field, value) in fields {
                match (field.as_str(), target[field].as_array_mut(), value.as_array()) {
                    (CONDITIONS, Some(there), Some(ours)) => {
                        there.retain(|one| !ours.iter().any(|own| own["type"] == one["type"]));
                        there.extend(ours.iter().cloned());
                    }
                    _ => lay_over(&mut target[field], value),
                }
            }
        }
        _ => *target = applied.clone(),
    }
}

/// What was applied before and is not any more leaves the object, unless somebody else has applied it, too.
fn disown(target: &mut Value, before: &Value, now: &Value, others: &[&Value]) {
    let Value::Object(before) = before else { return };
    for (field, value) in before {
        let others: Vec<&Value> = others.iter().filter_map(|other| other.get(field)).collect();
        match now.get(field) {
            Some(now) if field == CONDITIONS => leave_conditions(&mut target[field], value, now, &others),
            None if field == CONDITIONS && !others.is_empty() => {
                leave_conditions(&mut target[field], value, &Value::Null, &others);
            }
            Some(now) => disown(&mut target[field], value, now, &others),
            None if others.is_empty() => put(target, field, None),
            None => {}
        }
    }
}

fn leave_conditions(target: &mut Value, before: &Value, now: &Value, others: &[&Value]) {
    let has =
        |list: &Value, kind: &Value| list.as_array().into_iter().flatten().any(|one| one["type"] == *kind);
    let leaves =
        |kind: &Value| has(before, kind) && !has(now, kind) && !others.iter().any(|other| has(other, kind));
    if let Some(there) = target.as_array_mut() {
        there.retain(|one| !leaves(&one["type"]));
    }
}
