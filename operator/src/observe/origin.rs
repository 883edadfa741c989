//! What a cluster begins with: `spec.bootstrap.backupRef` becomes the bucket and the run that the KvBackup names.
//!
//! Once found it is recorded in `status.bootstrap`, and taken from there: the KvBackup may go, the pods stay as they are.

use kube::Api;

use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::backup::{BackupPhase, KvBackup};
use crate::crd::bucket::{Bootstrap, BootstrapS3};
use crate::error::{Error, asked_opt};
use crate::name::ClusterName;

/// Puts the bucket in place of the reference; leaves a reference that names no complete KvBackup.
pub(super) async fn resolve(ctx: &Context, name: &ClusterName, object: &mut KvCluster) -> Result<(), Error> {
    let Some(bootstrap) = object.spec.bootstrap.clone() else { return Ok(()) };
    let Some(reference) = &bootstrap.backup_ref else { return Ok(()) };
    let recorded = object.status.as_ref().and_then(|status| status.bootstrap.clone());
    if let Some(recorded) = recorded.filter(|recorded| recorded.s3.is_some()) {
        object.spec.bootstrap = Some(recorded);
        return Ok(());
    }
    let backups: Api<KvBackup> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let found = asked_opt(format!("get KvBackup {reference}"), backups.get(reference)).await?;
    if let Some(found) = found.as_ref().and_then(|backup| named(backup, &bootstrap)) {
        object.spec.bootstrap = Some(found);
    }
    Ok(())
}

fn named(backup: &KvBackup, asked: &Bootstrap) -> Option<Bootstrap> {
    let status = backup.status.as_ref().filter(|status| status.phase == Some(BackupPhase::Complete))?;
    let source = BootstrapS3 {
        store: status.destination.clone()?,
        cluster: Some(backup.spec.cluster.clone()),
        backup: backup.metadata.name.clone(),
        key: None,
    };
    Some(Bootstrap {
        backup_ref: None,
        s3: Some(source),
        target_time: None,
        encryption_key: asked.encryption_key.clone().or_else(|| status.encryption_key.clone()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_complete_backup_is_a_beginning() {
        let asked = Bootstrap { backup_ref: Some("b".into()), ..Bootstrap::default() };
        let mut backup = KvBackup::new("b", serde_json::from_value(json!({ "cluster": "cart" })).unwrap());
        assert_eq!(named(&backup, &asked), None);
        let status = |phase: &str| {
            serde_json::from_value(json!({ "phase": phase, "destination": { "bucket": "kvs" } })).unwrap()
        };
        backup.status = Some(status("Failed"));
        assert_eq!(named(&backup, &asked), None);
        backup.status = Some(status("Complete"));
        let source = named(&backup, &asked).unwrap().s3.unwrap();
        assert_eq!((source.cluster.as_deref(), source.backup.as_deref()), (Some("cart"), Some("b")));
    }
}
