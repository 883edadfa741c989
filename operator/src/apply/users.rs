//! Passwords: that of the user `default`, those of `spec.auth.users`, and the ACL file that the pods read.
//!
//! ```text
//! <name>-auth          user default   made once, mounted by the pods (its key passwords)
//! <name>-user-<user>   one each       made once
//! <name>-acl           users.acl      made of the spec and the users' Secrets; mounted by the pods
//! ```
//!
//! Order: a Secret is written before the ACL file that accepts what it holds. Who is gone is known from the old file, so
//! their Secrets are deleted before it is written anew. Killed in between, the next pass goes on.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use rand::distr::{Alphanumeric, Distribution as _};
use serde_json::json;

use super::rotation::{Keys, next};
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

/// Sees to it that every user has a Secret, and the pods know them.
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
    if !auth.enabled {
        return Ok(());
    }
    let here = Here { ctx, name, sight, ca, now, api: Api::namespaced(ctx.client.clone(), &name.namespace) };
    let default = labels::auth_secret(&name.name);
    here.login(DEFAULT, &default, sight.secrets.auth.as_ref()).await?;
    let mut file = String::new();
    for user in &auth.users {
        let secret = labels::user_secret(&name.name, &user.name);
        let valid = here.login(&user.name, &secret, sight.secrets.users.get(&user.name)).await?;
        file.push_str(&acl::line(&user.name, &valid, &user.acl));
    }
    here.acl(&file).await
}

/// What one pass looks at.
struct Here<'a> {
    ctx: &'a Context,
    name: &'a ClusterName,
    sight: &'a Sight,
    ca: Option<&'a str>,
    now: Timestamp,
    api: Api<Secret>,
}

impl Here<'_> {
    /// The Secret of a user, made or rotated; the passwords that are valid then.
    async fn login(&self, user: &str, secret: &str, seen: Option<&LoginSeen>) -> Result<Vec<String>, Error> {
        let Some(seen) = seen else {
            let password = password();
            let object = self.secret(user, secret, &password);
            asked(format!("create Secret {secret}"), self.api.create(&PostParams::default(), &object))
                .await?;
            tracing::info!(cluster = %self.name, secret, "password made");
            return Ok(vec![password]);
        };
        let keys = Keys { password: seen.password.clone(), valid: seen.valid.clone() };
        let turned = seen.rotate.as_deref().and_then(|word| next(word, keys, self.now, password));
        let Some((keys, word)) = turned else { return Ok(seen.valid.clone()) };
        let uri = seen.uri.replacen(&format!(":{}@", seen.password), &format!(":{}@", keys.password), 1);
        let lines = keys.valid.join("\n") + "\n";
        let data = [("password", &keys.password), ("uri", &uri), ("passwords", &lines)];
        let data: serde_json::Map<String, serde_json::Value> =
            data.into_iter().map(|(key, text)| (key.to_owned(), json!(bytes(text)))).collect();
        let patch = json!({
            "metadata": { "resourceVersion": seen.version, "annotations": { labels::ROTATE: word } },
            "data": data,
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Merge(&patch);
        let call = self.api.patch(secret, &params, &patch);
        asked(format!("rotate the password in Secret {secret}"), call).await?;
        self.ctx.metrics.child_writes.inc();
        let note = Note {
            reason: EventReason::PasswordRotating,
            warning: false,
            message: told(user, secret, word.as_deref()),
        };
        self.ctx.recorder.tell(&*self.sight.object, &[note]).await;
        Ok(keys.valid)
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

    /// In the form of the Service Binding specification.
    fn secret(&self, user: &str, secret: &str, password: &str) -> Secret {
        let by_tls = by_tls(&self.sight.object);
        let host = format!("{}.{}.svc", self.name.name, self.name.namespace);
        let (scheme, port) =
            if by_tls { ("rediss", labels::SERVICE_TLS_PORT) } else { ("redis", labels::SERVICE_PORT) };
        let mut data = vec![
            ("type", "redis".to_owned()),
            ("provider", "kvnode".to_owned()),
            ("uri", format!("{scheme}://{user}:{password}@{host}:{port}")),
            ("host", host),
            ("port", port.to_string()),
            ("username", user.to_owned()),
            ("password", password.to_owned()),
            ("passwords", format!("{password}\n")),
        ];
        data.extend(self.ca.filter(|_| by_tls).map(|ca| ("ca.crt", ca.to_owned())));
        Secret {
            metadata: metadata(&self.sight.object, self.name, secret),
            type_: Some("servicebinding.io/redis".to_owned()),
            data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), bytes(&text))).collect()),
            ..Secret::default()
        }
    }
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

fn told(user: &str, secret: &str, word: Option<&str>) -> String {
    match word {
        None => format!("User {user} has one valid password: the one in Secret {secret}."),
        Some("moving") => format!(
            "Secret {secret} hands out the new password of user {user}; the old one is valid until: kubectl annotate \
             secret {secret} {}=finish --overwrite",
            labels::ROTATE
        ),
        Some(_) => format!(
            "User {user} gets a second password; Secret {secret} hands it out once every pod knows it, in three minutes."
        ),
    }
}

/// 190 bits of letters and digits, which need no escape in a URI.
fn password() -> String {
    let mut rng = rand::rng();
    (0..32).map(|_| char::from(Alphanumeric.sample(&mut rng))).collect()
}
