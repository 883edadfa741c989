//! The operator's own certificate for each cluster: kept in memory, made anew when the authority is another one or half of
//! its life is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::ClientConfig;

use super::trust;
use crate::build::hash;
use crate::name::ClusterName;
use crate::observe::Secrets;
use crate::pki;

/// Seconds after which a certificate of our own is made anew: half of its 30 days.
const RENEW_AFTER: i64 = 15 * 86_400;

struct Session {
    /// What it was made from, as a hash.
    mark: String,
    made_at: Timestamp,
    client: Arc<ClientConfig>,
}

/// What the operator shows to the nodes of each cluster.
#[derive(Default)]
pub struct Sessions(Mutex<BTreeMap<ClusterName, Session>>);

impl Sessions {
    /// What to talk to the nodes of a cluster with.
    ///
    /// # Errors
    /// What is missing or wrong with the Secrets, for the status.
    pub fn client(
        &self,
        cluster: &ClusterName,
        secrets: &Secrets,
        now: Timestamp,
    ) -> Result<Arc<ClientConfig>, String> {
        let missing = "the Secret with the certificate is not there yet";
        let (signs, trusted) = if secrets.managed {
            let authority = secrets.authority.as_ref().ok_or(missing)?;
            (&authority.chain.current, authority.chain.trusted())
        } else {
            let pods = secrets.pods.as_ref().ok_or(missing)?;
            (&pods.pair, pods.ca.clone())
        };
        let mark = hash(&serde_json::json!([signs.cert, signs.key, trusted]));
        let mut sessions = self.0.lock();
        if let Some(session) = sessions.get(cluster).filter(|session| session.mark == mark)
            && now.as_second() - session.made_at.as_second() < RENEW_AFTER
        {
            return Ok(session.client.clone());
        }
        let own = if secrets.managed {
            pki::of_operator(signs, now).map_err(|error| error.to_string())?
        } else {
            signs.clone()
        };
        let client = trust::client(&trusted, &own)?;
        sessions.insert(cluster.clone(), Session { mark, made_at: now, client: client.clone() });
        Ok(client)
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &ClusterName) {
        self.0.lock().remove(cluster);
    }
}
