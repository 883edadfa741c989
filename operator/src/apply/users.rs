//! Passwords: that of the user `default`, those of `spec.auth.users`, and the ACL file that the pods read.
//!
//! ```text
//! <name>-auth          user default   made once, or as passwordSecret says; mounted by the pods (its key passwords)
//! <name>-user-<user>   one each       made once
//! <name>-acl           users.acl      made of the spec and the users' Secrets; mounted by the pods
//! ```
//!
//! Order: a Secret is written before the ACL file that accepts what it holds. Who is gone is known from the old file, so
//! their Secrets are deleted before it is written anew. Killed in between, the next pass goes on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kvnode_api::logins;
use rand::distr::{Alphanumeric, Distribution as _};
use serde_json::json;

use super::rotation::{Keys, Moment, Policy, Spread, Turn, Turned, next, next_given};
use super::secrets::{by_tls, metadata};
use crate::build::acl;
use crate::build::config_map::ACL_FILE;
use crate::build::labels::{self, MANAGER};
use crate::context::Context;
use crate::crd::reason::EventReason;
use crate::error::{Error, asked, asked_opt};
use crate::name::ClusterName;
use crate::observe::Sight;
use crate::observe::secrets::LoginSeen;
use crate::plan::Note;

/// User that clients are without a name.
const DEFAULT: &str = "default";

/// Sees to it that every user has a Secret, and the pods know them; where the doors have just been opened, that the users
/// are gone.
///
/// # Errors
/// The API server refused, or did not answer.
pub(super) async fn keep(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    (ca, now): (Option<&str>, Timestamp),
) -> Result<(), Error> {
    let auth = &sight.object.spec.auth;
    let (spread, policy) = (spread(sight), Policy::of(auth.rotation.as_ref()));
    let api = Api::namespaced(ctx.client.clone(), &name.namespace);
    let here = Here { ctx, name, sight, ca, now, spread, policy, api };
    if !auth.enabled {
        return if sight.secrets.acl.is_some() { here.acl("").await } else { Ok(()) };
    }
    let default = labels::auth_secret(&name.name);
    let (origin, fault) = match sight.secrets.given.as_ref().map(|given| &given.0) {
        None => (Origin::Made, None),
        Some(Ok(given)) => (Origin::Given(given), None),
        Some(Err(fault)) => (Origin::Missing, Some(fault)),
    };
    here.login(DEFAULT, &default, sight.secrets.auth.as_ref(), origin).await?;
    let mut file = String::new();
    for user in &auth.users {
        let secret = labels::user_secret(&name.name, &user.name);
        let valid =
            here.login(&user.name, &secret, sight.secrets.users.get(&user.name), Origin::Made).await?;
        file.push_str(&acl::line(&user.name, &valid, &user.acl));
    }
    here.acl(&file).await?;
    // The password that is handed out stays until there is another one.
    let blocks = sight.secrets.auth.is_none();
    fault.map_or(Ok(()), |fault| Err(Error::Given { what: fault.clone(), blocks }))
}

/// How far what the Secrets hold has come: by what each pod says that it has read.
fn spread(sight: &Sight) -> Spread {
    let (seen, spec) = (&sight.secrets, &sight.object.spec);
    let Some(auth) = &seen.auth else { return Spread::Untold };
    if spec.config.contains_key("acl_file") {
        // The users come from somewhere else, and nobody but the nodes knows that file.
        return Spread::Untold;
    }
    let lines = spec.auth.users.iter().map(|user| {
        let valid = &seen.users.get(&user.name)?.valid;
        Some(acl::line(&user.name, valid, &user.acl))
    });
    let Some(wanted) = lines.collect::<Option<String>>() else { return Spread::Behind };
    let file = seen.acl.as_ref().map(|seen| seen.file.as_str()).unwrap_or_default();
    if file != wanted {
        // The file is not written yet that the pods should read.
        return Spread::Behind;
    }
    let held = logins::contents(auth.passwords.as_bytes(), file.as_bytes());
    let pods = sight.observed.pods.values().filter(|pod| !pod.deleting);
    let told = pods.map(|pod| {
        let status = pod.node.status()?;
        Some(*status.logins.as_ref()? == logins::mark(status.node_id?, &held))
    });
    let told: Vec<Option<bool>> = told.collect();
    Spread::of(&told)
}

/// Where a password comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    /// From here.
    Made,
    /// From somebody else, who has this one now.
    Given(&'a str),
    /// From somebody else, who has none.
    Missing,
}

/// What one pass looks at.
struct Here<'a> {
    ctx: &'a Context,
    name: &'a ClusterName,
    sight: &'a Sight,
    ca: Option<&'a str>,
    now: Timestamp,
    spread: Spread,
    policy: Option<Policy>,
    api: Api<Secret>,
}

impl Here<'_> {
    /// The Secret of a user, made, rotated, or put right; the passwords that are valid then.
    async fn login(
        &self,
        user: &str,
        secret: &str,
        seen: Option<&LoginSeen>,
        origin: Origin<'_>,
    ) -> Result<Vec<String>, Error> {
        let Some(seen) = seen else {
            let password = match origin {
                Origin::Made => password(),
                Origin::Given(given) => given.to_owned(),
                Origin::Missing => return Ok(Vec::new()),
            };
            let object = self.secret(user, secret, &password);
            self.ctx.secrets.forget(self.name);
            asked(format!("create Secret {secret}"), self.api.create(&PostParams::default(), &object))
                .await?;
            tracing::info!(cluster = %self.name, secret, "Secret made");
            return Ok(vec![password]);
        };
        let keys = Keys { password: seen.password.clone(), valid: seen.valid.clone() };
        let moment = Moment { time: self.now, since: seen.since, spread: self.spread, policy: self.policy };
        let word = seen.rotate.as_deref();
        let turn = match origin {
            Origin::Made => next(word, keys, moment, password),
            Origin::Given(given) => next_given(word, keys, moment, given),
            // What is under way goes on.
            Origin::Missing => next_given(word, keys, moment, newest(seen)),
        };
        let valid = turn.as_ref().map_or(&seen.valid, |turn| &turn.keys.valid).clone();
        let password = turn.as_ref().map_or(&seen.password, |turn| &turn.keys.password);
        // Where clients connect and whom they trust may change as well.
        let mut data: BTreeMap<&str, String> = self.binding(user, password).into();
        data.extend(self.ca().map(|ca| ("ca.crt", ca)));
        data.retain(|key, text| seen.told.get(*key) != Some(&*text));
        let mut notes = serde_json::Map::new();
        if let Some(turn) = &turn {
            if valid != seen.valid {
                data.insert("passwords", valid.join("\n") + "\n");
            }
            notes.insert(labels::ROTATE.to_owned(), json!(turn.word));
            if turn.turned == Turned::HandedOut {
                notes.insert(labels::PASSWORD_SINCE.to_owned(), json!(self.now.to_string()));
            }
        }
        if data.is_empty() && notes.is_empty() {
            return Ok(valid);
        }
        self.change(secret, seen, &data, notes).await?;
        if let Some(turn) = &turn {
            self.tell(user, secret, turn).await;
        }
        Ok(valid)
    }

    async fn change(
        &self,
        secret: &str,
        seen: &LoginSeen,
        data: &BTreeMap<&str, String>,
        notes: serde_json::Map<String, serde_json::Value>,
    ) -> Result<(), Error> {
        let data: BTreeMap<&str, ByteString> = data.iter().map(|(key, text)| (*key, bytes(text))).collect();
        let patch = json!({
            "metadata": { "resourceVersion": seen.version, "annotations": notes },
            "data": data,
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        self.ctx.secrets.forget(self.name);
        let patch = Patch::Merge(&patch);
        let call = self.api.patch(secret, &params, &patch);
        asked(format!("change the password in Secret {secret}"), call).await?;
        self.ctx.metrics.child_writes.inc();
        Ok(())
    }

    async fn tell(&self, user: &str, secret: &str, turn: &Turn) {
        let Some(message) = told(user, secret, turn, self.policy.is_some()) else { return };
        let warning = turn.turned == Turned::Full;
        let note = Note { reason: EventReason::PasswordRotating, warning, message };
        self.ctx.recorder.tell(&*self.sight.object, &[note]).await;
    }

    /// The ACL file; and users who are not in it any more lose their Secret.
    async fn acl(&self, file: &str) -> Result<(), Error> {
        let secret = labels::acl_secret(&self.name.name);
        let Some(seen) = &self.sight.secrets.acl else {
            // Without users nobody mounts it.
            if file.is_empty() {
                return Ok(());
            }
            let object = Secret {
                metadata: metadata(&self.sight.object, self.name, &secret),
                type_: Some("Opaque".to_owned()),
                data: Some([(ACL_FILE.to_owned(), bytes(file))].into()),
                ..Secret::default()
            };
            self.ctx.secrets.forget(self.name);
            asked(format!("create Secret {secret}"), self.api.create(&PostParams::default(), &object))
                .await?;
            return Ok(());
        };
        if seen.file == file {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": seen.version },
            "data": { ACL_FILE: bytes(file) },
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        self.ctx.secrets.forget(self.name);
        for user in acl::names(&seen.file).difference(&acl::names(file)) {
            self.forget(user).await?;
        }
        asked(format!("write Secret {secret}"), self.api.patch(&secret, &params, &Patch::Merge(&patch)))
            .await?;
        self.ctx.metrics.child_writes.inc();
        tracing::info!(cluster = %self.name, secret, "users written");
        Ok(())
    }

    async fn forget(&self, user: &str) -> Result<(), Error> {
        let secret = labels::user_secret(&self.name.name, user);
        let doing = format!("delete Secret {secret}");
        let found = asked(doing.clone(), self.api.get_metadata_opt(&secret)).await?;
        let ours = found.filter(|found| !crate::observe::is_anothers(&found.metadata, &self.sight.object));
        if let Some(found) = ours {
            let precondition = Preconditions { uid: found.metadata.uid, resource_version: None };
            let params = DeleteParams::default().preconditions(precondition);
            asked_opt(doing, self.api.delete(&secret, &params)).await?;
        }
        Ok(())
    }

    /// The authority that clients are to trust; `None` where they cannot come by TLS.
    fn ca(&self) -> Option<String> {
        self.ca.filter(|_| by_tls(&self.sight.object)).map(str::to_owned)
    }

    /// In the form of the Service Binding specification.
    fn binding(&self, user: &str, password: &str) -> [(&'static str, String); 7] {
        let host = format!("{}.{}.svc", self.name.name, self.name.namespace);
        let (scheme, port) = if by_tls(&self.sight.object) {
            ("rediss", labels::SERVICE_TLS_PORT)
        } else {
            ("redis", labels::SERVICE_PORT)
        };
        [
            ("type", "redis".to_owned()),
            ("provider", "kvnode".to_owned()),
            ("uri", format!("{scheme}://{user}:{}@{host}:{port}", escaped(password))),
            ("host", host),
            ("port", port.to_string()),
            ("username", user.to_owned()),
            ("password", password.to_owned()),
        ]
    }

    fn secret(&self, user: &str, secret: &str, password: &str) -> Secret {
        let mut data: BTreeMap<&str, String> = self.binding(user, password).into();
        data.insert("passwords", format!("{password}\n"));
        data.extend(self.ca().map(|ca| ("ca.crt", ca)));
        let mut metadata = metadata(&self.sight.object, self.name, secret);
        let since = (labels::PASSWORD_SINCE.to_owned(), self.now.to_string());
        metadata.annotations = Some([since].into());
        Secret {
            metadata,
            type_: Some("servicebinding.io/redis".to_owned()),
            data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), bytes(&text))).collect()),
            ..Secret::default()
        }
    }
}

/// The last password that there was to be.
fn newest(seen: &LoginSeen) -> &str {
    let spreads = seen.rotate.as_deref().is_some_and(|word| word.starts_with("spreading"));
    seen.valid.last().filter(|_| spreads).unwrap_or(&seen.password)
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

/// As a URI has it. Ours need no escape; those that people write may.
fn escaped(password: &str) -> String {
    let mut text = String::new();
    for byte in password.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing into a String does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn told(user: &str, secret: &str, turn: &Turn, by_itself: bool) -> Option<String> {
    let finish = format!("kubectl annotate secret {secret} {}=finish --overwrite", labels::ROTATE);
    let message = match turn.turned {
        Turned::Began => format!(
            "User {user} gets a second password; Secret {secret} hands it out once every pod says that it has read it."
        ),
        Turned::Full => format!(
            "User {user} has {} valid passwords and gets no further one. Make the old ones invalid first: {finish}",
            turn.keys.valid.len()
        ),
        Turned::HandedOut if by_itself => format!(
            "Secret {secret} hands out the new password of user {user}; the old one ends with auth.rotation.overlap, or by: {finish}"
        ),
        Turned::HandedOut => format!(
            "Secret {secret} hands out the new password of user {user}; the old one is valid until: {finish}"
        ),
        Turned::Done => format!("User {user} has one valid password: the one in Secret {secret}."),
        Turned::Put => return None,
    };
    Some(message)
}

/// 190 bits of letters and digits, which need no escape in a URI.
fn password() -> String {
    let mut rng = rand::rng();
    (0..32).map(|_| char::from(Alphanumeric.sample(&mut rng))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_a_person_wrote_is_escaped_in_the_uri() {
        assert_eq!(escaped("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(escaped("p@ss:w/rd%"), "p%40ss%3Aw%2Frd%25");
    }
}
