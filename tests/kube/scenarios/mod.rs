//! The play: acts one after the other, the scenarios of an act side by side.
//!
//! What times something, or takes the operator, the API server or a Kubernetes node away, plays alone.

mod backups;
mod faults;
mod install;
mod last_resort;
mod life;
mod operators;
mod plain;
mod rollout;
mod runbook;
mod safe;
mod tools;

use std::pin::Pin;

use anyhow::Result;

use crate::stage::Stage;

type Playing<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One scenario.
pub(crate) struct Scenario {
    /// A sentence in lower case, also the name of its namespace.
    pub(crate) name: &'static str,
    /// Plays it.
    pub(crate) play: for<'a> fn(&'a Stage) -> Playing<'a>,
}

/// Scenarios that do not disturb each other.
pub(crate) type Act = &'static [Scenario];

macro_rules! acts {
    ($([$($module:ident :: $name:ident),+ $(,)?]),+ $(,)?) => {
        /// All of them.
        pub(crate) const ACTS: &[Act] = &[$(
            &[$(Scenario { name: stringify!($name), play: |stage| Box::pin($module::$name(stage)) }),+]
        ),+];
    };
}

acts![
    [plain::plain_pods_form_a_cluster, install::manifests_are_fresh],
    [install::quick_start_by_kubectl],
    [install::helm_installs_upgrades_and_leaves],
    [life::created_and_served],
    [faults::leader_pod_deleted],
    [life::scaled_with_a_gigabyte],
    [
        life::scaled_up_and_down,
        rollout::settings_and_image_roll,
        life::hibernated_and_woken,
        rollout::a_bad_image_is_superseded,
        rollout::resized_in_place,
        life::deleted_and_adopted,
        tools::gitops_sees_it_right,
        faults::volume_lost,
        life::volumes_grow,
        tools::a_plan_is_shown,
    ],
    // The longest first.
    [
        safe::secrets_rotate_under_load,
        safe::authority_exchanged_under_load,
        backups::backups_and_restore,
        backups::buckets_that_refuse,
        backups::a_wrong_backup_is_called_failed,
        safe::doors_are_locked,
        safe::cert_manager_is_asked,
        safe::what_others_keep,
        last_resort::a_changed_object_is_refused,
        last_resort::a_last_backup_before_deletion,
        runbook::backups_as_written,
    ],
    [backups::backups_under_faults],
    [last_resort::backups_by_two_operators],
    [last_resort::a_run_on_a_lost_node],
    [rollout::nodes_are_drained],
    [faults::operator_killed_while_scaling],
    [operators::two_operators_at_once],
    [faults::api_server_away],
    [faults::node_cut_off],
    [runbook::runbook_as_written],
];
