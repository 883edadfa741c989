//! The preflight probe: what these settings may do in this bucket, before the first night needs it.

use super::{S3Error, S3ErrorKind, Store};
use crate::backup::layout::Layout;

/// What the probe found out; writing, reading and listing are allowed if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Objects can be deleted: retention can work.
    pub delete: bool,
}

impl Store {
    /// Looks for the bucket; then writes, reads, lists and deletes a tiny object below the prefix. `nonce` makes its key unique.
    ///
    /// # Errors
    /// The first thing that is not possible. A bucket where nothing may be deleted is no error.
    pub async fn probe(&self, layout: &Layout, nonce: &str) -> Result<Allowed, S3Error> {
        // Some stores make a bucket when somebody writes into it; and some say of one that is not there that nobody may.
        match self.has_bucket().await {
            Ok(true) => {}
            Ok(false) => {
                let doing = format!("probe bucket {}", self.bucket());
                return Err(S3Error::new(S3ErrorKind::NoBucket, doing, "NoSuchBucket (404)"));
            }
            // Not every writer may ask that: what follows tells more.
            Err(error) if error.kind == S3ErrorKind::AccessDenied => {}
            Err(error) => return Err(self.in_words(error, "look")),
        }
        let key = layout.probe(nonce);
        self.put(&key, nonce.to_owned()).await.map_err(|error| self.in_words(error, "write"))?;
        let read = self.get(&key, 1024).await.map_err(|error| self.in_words(error, "read"))?;
        if read != nonce {
            let what = "what was written is not what is read: is this a cache?";
            return Err(S3Error::new(S3ErrorKind::Broken, format!("probe bucket {}", self.bucket()), what));
        }
        let listed = self.list(&key).await.map_err(|error| self.in_words(error, "list"))?;
        if !listed.iter().any(|found| found.key == key) {
            let what = "what was written is not in the listing";
            return Err(S3Error::new(S3ErrorKind::Broken, format!("probe bucket {}", self.bucket()), what));
        }
        match self.delete(&key).await {
            Ok(()) => Ok(Allowed { delete: true }),
            Err(error) if error.kind == S3ErrorKind::AccessDenied => Ok(Allowed { delete: false }),
            Err(error) => Err(self.in_words(error, "delete")),
        }
    }

    fn in_words(&self, error: S3Error, verb: &str) -> S3Error {
        // No object of ours: a bucket that is not there is told as a missing key by some stores.
        let kind = match (error.kind, verb) {
            (S3ErrorKind::NotFound, "write" | "list") => S3ErrorKind::NoBucket,
            (kind, _) => kind,
        };
        S3Error { kind, doing: format!("probe bucket {}: {verb}", self.bucket()), what: error.what }
    }
}
