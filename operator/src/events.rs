//! Events of `events.k8s.io/v1`: what `kubectl describe kvc` shows below the status.
//!
//! The name of an Event is made of what it is about: object, version of the object that the pass saw, reason, message.
//! So a pass that is repeated after a crash tells nothing twice (the name is taken), and the same thing happening
//! again later is told again. kube's own recorder joins Events of one reason into a series that keeps only the first
//! message, which would hide that leadership went back, so it is not used.
//!
//! An Event that cannot be told never stops a pass: the status says the same.

use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt as _};
use sha2::{Digest as _, Sha256};

use crate::build::labels::MANAGER;
use crate::clock;
use crate::error::{Error, asked};
use crate::metrics::Metrics;
use crate::plan::Note;

/// Longest message, bytes: the API server refuses more than 1024.
const MESSAGE_MAX: usize = 1000;

/// What Events can be about: a KvCluster, a KvBackup.
pub trait Subject: Resource<DynamicType = ()> {}

impl<K: Resource<DynamicType = ()>> Subject for K {}

/// Of an object's name; ASCII. The name of an Event may have 253 bytes.
const OBJECT_MAX: usize = 200;

/// Tells Events.
pub struct Recorder {
    client: Client,
    instance: String,
    metrics: Arc<Metrics>,
}

impl Recorder {
    /// A recorder of the operator process `instance` (its pod).
    #[must_use]
    pub fn new(client: Client, instance: &str, metrics: Arc<Metrics>) -> Self {
        Self { client, instance: instance.chars().take(128).collect(), metrics }
    }

    /// Tells these about an object. Failures are logged.
    pub async fn tell(&self, about: &impl Subject, notes: &[Note]) {
        for note in notes {
            let object = format!("{}/{}", about.namespace().unwrap_or_default(), about.name_any());
            if let Err(error) = self.publish(about, note).await {
                tracing::warn!(object, %error, reason = %note.reason, "tell an event");
            }
        }
    }

    async fn publish(&self, about: &impl Subject, note: &Note) -> Result<(), Error> {
        let namespace = about.namespace().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let event = event(about, note, &self.instance, MicroTime(clock::wall()));
        match asked(format!("tell the event {}", note.reason), api.create(&PostParams::default(), &event))
            .await
        {
            Ok(_) => {
                self.metrics.events.with_label_values(&[note.reason.as_str()]).inc();
                let object = format!("{namespace}/{}", about.name_any());
                tracing::info!(object, reason = %note.reason, message = note.message, "event");
                Ok(())
            }
            // It has been told.
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn event(about: &impl Subject, note: &Note, instance: &str, now: MicroTime) -> Event {
    let object = about.object_ref(&());
    Event {
        metadata: ObjectMeta {
            name: Some(name(about, note)),
            namespace: about.namespace(),
            ..ObjectMeta::default()
        },
        action: Some("Reconcile".into()),
        reason: Some(note.reason.as_str().into()),
        note: Some(cut(&note.message)),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        event_time: Some(now),
        reporting_controller: Some(MANAGER.into()),
        reporting_instance: Some(instance.into()),
        regarding: Some(ObjectReference { resource_version: None, ..object }),
        ..Event::default()
    }
}

/// `<object>.<16 hex digits>`.
fn name(about: &impl Subject, note: &Note) -> String {
    let mut hash = Sha256::new();
    let meta = about.meta();
    let version = meta.resource_version.as_deref().unwrap_or_default();
    for part in [meta.uid.as_deref().unwrap_or_default(), version, note.reason.as_str(), &note.message] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut name = about.name_any();
    name.truncate(OBJECT_MAX);
    name.push('.');
    for byte in hash.finalize().iter().take(8) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn cut(message: &str) -> String {
    if message.len() <= MESSAGE_MAX {
        return message.to_owned();
    }
    let mut end = MESSAGE_MAX - 3;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::reason::EventReason;
    use crate::crd::{KvCluster, KvClusterSpec};

    fn about(version: &str) -> KvCluster {
        let mut object = KvCluster::new("cart", KvClusterSpec::default());
        object.metadata.uid = Some("u".into());
        object.metadata.namespace = Some("shop".into());
        object.metadata.resource_version = Some(version.into());
        object
    }

    fn note(message: &str) -> Note {
        Note { reason: EventReason::LeaderChanged, warning: false, message: message.into() }
    }

    #[test]
    fn the_same_news_has_one_name_and_later_news_another() {
        let first = name(&about("7"), &note("cart-0 to cart-1"));
        assert_eq!(first, name(&about("7"), &note("cart-0 to cart-1")));
        assert_ne!(first, name(&about("9"), &note("cart-0 to cart-1")), "it happened again");
        assert_ne!(first, name(&about("7"), &note("cart-1 to cart-0")));
        assert!(first.starts_with("cart.") && first.len() == "cart.".len() + 16, "{first}");
    }

    #[test]
    fn messages_fit_and_stay_text() {
        let long = "ä".repeat(MESSAGE_MAX);
        let event = event(&about("7"), &note(&long), "op-0", MicroTime(clock::wall()));
        let text = event.note.unwrap();
        assert!(text.len() <= MESSAGE_MAX && text.ends_with("ä..."), "{}", text.len());
        assert_eq!(event.regarding.unwrap().kind.as_deref(), Some("KvCluster"));
    }
}
