//! The closed lists that users, alerts and GitOps tools may rely on: condition types, their reasons, event reasons.
//!
//! A word, once released, keeps its meaning. Texts beside it may change at any time.

use std::fmt;

macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $note:literal])* $word:ident),+ $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[doc = $note])* $word),+ }

        impl $name {
            /// All, in the order of this list.
            pub const ALL: &'static [Self] = &[$(Self::$word),+];

            /// The word as it stands in Kubernetes.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => stringify!($word)),+ }
            }

            /// What it says.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$word => concat!($($note),*).trim_ascii()),+ }
            }

            /// All of them as a table of Markdown.
            fn table() -> String {
                let rows = Self::ALL.iter().map(|word| format!("| `{word}` | {} |\n", word.meaning()));
                let head = concat!($($doc),*).trim_ascii();
                format!("{head}\n\n| word | meaning |\n| --- | --- |\n{}", rows.collect::<String>())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Type of a condition. All of them are always present, so that `kubectl wait` never waits for a missing one; but for
    /// TlsValid, which is there with `spec.tls`.
    ConditionType {
        /// True: every pod asked for is ready, a member in its role, and of the newest revision.
        Ready,
        /// True: a leader with a quorum answered in this pass. Commands are served.
        Available,
        /// True: the operator is changing something.
        Progressing,
        /// True: the cluster serves, but tolerates fewer failures than it should.
        Degraded,
        /// True: what the nodes hold is what this KvCluster recorded. False stops everything that could lose data.
        DataSafe,
        /// True: this operator would make other pods than those that run; see `rollout.operatorUpgrade` and `status.doors`.
        UpdateAvailable,
        /// True: `spec.paused`.
        Paused,
        /// True: nothing will happen until somebody changes something (kstatus: Failed).
        Stalled,
        /// True: every running pod showed the certificate of the Secret in a handshake, and it lasts for a while.
        TlsValid,
    }
}

words! {
    /// Reason of a condition. The comment names the condition and its status.
    Reason {
        /// Ready true.
        AllMembersReady,
        /// Ready false: fewer pods are ready members than asked for.
        WaitingForMembers,
        /// Ready false: all are ready, but a change is under way.
        ChangeUnderWay,
        /// Ready false, Available false: `spec.hibernate`.
        Hibernated,
        /// Available true.
        QuorumPresent,
        /// Available false: an election is under way, or a majority has been silent for less than a minute.
        NoLeader,
        /// Available false: a majority of the voters has not answered for a minute. Nothing is deleted or changed until
        /// it does.
        QuorumLost,
        /// Available false: not formed yet.
        NotFormed,
        /// Available unknown: no node could be asked.
        Unknown,
        /// Progressing true: first formation.
        Creating,
        /// Progressing true: more or fewer members.
        Scaling,
        /// Progressing true: pods are replaced one by one.
        RollingOut,
        /// Progressing true: a member lost its data; another takes its place.
        ReplacingMember,
        /// Progressing true.
        GrowingVolumes,
        /// Progressing true: pods stop.
        Hibernating,
        /// Progressing true: pods start again with their data.
        Waking,
        /// Progressing true: a step waits for something; the message names it.
        Blocked,
        /// Progressing false: nothing to do.
        Settled,
        /// Progressing false, Stalled true: the first pod of a new revision does not come up; old pods are untouched.
        RolloutStalled,
        /// Progressing false: `rollout.mode: Manual`, only the leader is left.
        WaitingForApproval,
        /// Progressing false: annotation `kvnode.dev/plan: show`; `status.plan` lists the next steps.
        PlanOnly,
        /// Degraded true: a member's node does not answer.
        MemberDown,
        /// Degraded true: a member stops, and does not start again, because its data is not that of the majority.
        MemberDiverged,
        /// Degraded true: the data of members differs, and no majority says which is right.
        ContentsDiffer,
        /// Degraded true: a member is far behind.
        MemberLagging,
        /// Degraded true: a disk refuses writes that grow the data.
        VolumeFull,
        /// Degraded false.
        Healthy,
        /// DataSafe true.
        IdentityOk,
        /// DataSafe false, Stalled true: nodes of different clusters, or of another one than recorded.
        IdentityConflict,
        /// DataSafe false, Stalled true: the cluster had data and all nodes are empty. It is not founded anew.
        AllMembersEmpty,
        /// UpdateAvailable true.
        NewerTemplate,
        /// UpdateAvailable true: the cluster is older than the defaults of `spec.tls` and `spec.auth`, and stays open.
        KeptOpen,
        /// UpdateAvailable false.
        UpToDate,
        /// Paused true.
        PausedBySpec,
        /// Paused false.
        Running,
        /// Ready false, Stalled true: the spec is wrong; the message lists every fault.
        InvalidSpec,
        /// Stalled true: a name that the cluster needs belongs to something else.
        NameTaken,
        /// Stalled true: Kubernetes refuses one of the cluster's objects, or lacks what it needs; the message says which.
        ChangeRefused,
        /// Stalled false.
        NotStalled,
        /// TlsValid true.
        Served,
        /// TlsValid false: the certificate ends within a week, or within a fifth of its life if that is less; or it has
        /// ended. Nobody has renewed it.
        ExpiringSoon,
        /// TlsValid false, or unknown while no pod runs: not every pod shows the certificate of the Secret yet.
        NotServedYet,
        /// TlsValid false: the Secret is missing, or what it holds cannot be used.
        CertificateUnusable,
    }
}

words! {
    /// Type of a condition about backups; there while `spec.backup` is.
    BackupCondition {
        /// True: the bucket can be used, and the newest good backup is not older than two periods of its schedule.
        BackupHealthy,
        /// True: the newest backup was proved to be good.
        BackupVerified,
    }
}

words! {
    /// Reason of a condition about backups.
    BackupReason {
        /// BackupHealthy true.
        Recent,
        /// BackupHealthy true: nothing is due by schedule.
        OnDemand,
        /// BackupHealthy unknown: none was due yet.
        NeverRun,
        /// BackupHealthy true, but by schedule nothing will run.
        Suspended,
        /// BackupHealthy false: the newest good one is older than two periods.
        Stale,
        /// BackupHealthy false: the newest run failed.
        Failing,
        /// BackupHealthy false: the probe of the bucket failed; the message says at what.
        BucketUnusable,
        /// BackupHealthy false: a schedule cannot be read.
        InvalidSchedule,
        /// BackupVerified true.
        Verified,
        /// BackupVerified false: the newest backup is proved to be wrong.
        VerificationFailed,
        /// BackupVerified unknown: no backup yet, or `verify: Off`.
        NotVerified,
    }
}

words! {
    /// Type of a condition about the backup that a cluster begins with; there while `spec.bootstrap` is.
    RestoreCondition {
        /// True: the cluster was founded with it, counted and digested.
        Restored,
    }
}

words! {
    /// Reason of the condition about the backup that a cluster begins with.
    RestoreReason {
        /// Restored true.
        RestoreComplete,
        /// Restored unknown: it is fetched, or loaded; the message says what it is and what will be missing.
        Restoring,
        /// Restored false: it was refused, or cannot be had; the message says why. It is tried again.
        RestoreFailed,
    }
}

/// True for a condition of a KvCluster that the part which runs backups writes.
#[must_use]
pub fn is_of_backups(kind: &str) -> bool {
    BackupCondition::ALL.iter().any(|own| own.as_str() == kind)
        || RestoreCondition::ALL.iter().any(|own| own.as_str() == kind)
}

words! {
    /// Condition type of a KvBackup.
    DeletionCondition {
        /// What it stored is deleted. Only there while a KvBackup with `deletionPolicy: Delete` is being deleted.
        ObjectsDeleted,
    }
}

words! {
    /// Reason of a condition of a KvBackup.
    DeletionReason {
        /// ObjectsDeleted false: the run is stopped, or the Job works.
        Deleting,
        /// ObjectsDeleted false: it does not get on; the message says why. It is tried again.
        Blocked,
    }
}

words! {
    /// Reason of an Event.
    EventReason {
        /// A backup is stored and, unless turned off, proved.
        BackupComplete,
        /// A KvBackup goes, and what it stored is deleted (`deletionPolicy: Delete`).
        BackupDeleted,
        /// A KvBackup waits because what it stored cannot be deleted; the message says why and what to do.
        BackupNotDeleted,
        /// A run was given up.
        BackupFailed,
        /// A KvCluster that was deleted stays, because its last backup failed; the message says why and what to do.
        DeletionHeld,
        /// A backup was proved to be wrong.
        BackupWrong,
        /// The bucket cannot be used.
        BucketUnusable,
        /// The cluster id was recorded; founding follows.
        ClusterIdRecorded,
        /// Volumes of an earlier KvCluster of this name were taken over.
        AdoptedExistingData,
        /// The cluster was founded.
        ClusterInitialized,
        /// A learner was added.
        LearnerAdded,
        /// The set of voters changed.
        VotersChanged,
        /// A member was removed.
        MemberRemoved,
        /// A member without data was replaced by a new one.
        MemberReplaced,
        /// Leadership moved; the message has cause and cost.
        LeaderChanged,
        /// The operator asked the leader to hand over.
        HandoverRequested,
        /// The authority of a Managed cluster is being exchanged; the message says how far it is.
        AuthorityRotating,
        /// A password is being changed; the message says how far it is and what a person does next.
        PasswordRotating,
        /// A pod was deleted to be made anew.
        PodRestarted,
        /// A server got another size without a restart.
        PodResized,
        /// A pod on a lost Kubernetes node was given up.
        PodForceDeleted,
        /// A volume was deleted.
        VolumeDeleted,
        /// A volume is being grown.
        VolumeGrowing,
        /// The StatefulSet was made anew, pods untouched.
        StatefulSetRecreated,
        /// Fewer pods.
        ScaledDown,
        /// More pods.
        ScaledUp,
        /// A rollout began.
        RolloutStarted,
        /// All pods have the newest revision.
        RolloutComplete,
        /// The first pod of a revision does not come up.
        RolloutStalled,
        /// A change that was under way does nothing more until something happens; the message names it.
        Blocked,
        /// A leader with a quorum answers.
        Available,
        /// No leader, or no quorum.
        Unavailable,
        /// Fewer failures are tolerated than should be.
        Degraded,
        /// All members are well again.
        Recovered,
        /// All pods were stopped.
        Hibernated,
        /// Pods start again.
        Woken,
        /// Data of different clusters; nothing is touched.
        IdentityConflict,
        /// All nodes of a cluster that had data are empty; nothing is touched.
        AllMembersEmpty,
        /// The spec is wrong.
        InvalidSpec,
        /// A step was refused or failed; it is tried again.
        StepFailed,
    }
}

/// `deploy/REASONS.md`: all lists for people.
#[must_use]
pub fn markdown() -> String {
    let parts = [
        ("Conditions of a KvCluster", ConditionType::table()),
        ("Their reasons", Reason::table()),
        ("Conditions about backups", BackupCondition::table()),
        ("Their reasons", BackupReason::table()),
        ("Conditions about the backup that a cluster begins with", RestoreCondition::table()),
        ("Their reasons", RestoreReason::table()),
        ("Conditions of a KvBackup", DeletionCondition::table()),
        ("Their reasons", DeletionReason::table()),
        ("Events", EventReason::table()),
    ];
    let parts = parts.into_iter().map(|(title, table)| format!("\n## {title}\n\n{table}"));
    format!(
        "# Words that the operator uses\n\nClosed lists: alerts and tools may rely on them. A word keeps its meaning; texts \
         beside it may change. Generated by\n`kvnode-operator reasons`; do not edit.\n{}",
        parts.collect::<String>()
    )
}
