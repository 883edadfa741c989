//! The scenarios in the order in which they play.

mod faults;
mod install;
mod life;
mod plain;
mod rollout;
mod runbook;

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

macro_rules! scenarios {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        /// All of them.
        pub(crate) const SCENARIOS: &[Scenario] =
            &[$(Scenario { name: stringify!($name), play: |stage| Box::pin($module::$name(stage)) }),+];
    };
}

scenarios![
    plain::plain_pods_form_a_cluster,
    install::manifests_are_fresh,
    install::quick_start_by_kubectl,
    install::helm_installs_upgrades_and_leaves,
    life::created_and_served,
    life::scaled_up_and_down,
    life::hibernated_and_woken,
    life::deleted_and_adopted,
    life::scaled_with_a_gigabyte,
    rollout::settings_and_image_roll,
    rollout::a_bad_image_is_superseded,
    rollout::nodes_are_drained,
    faults::leader_pod_deleted,
    faults::volume_lost,
    faults::operator_killed_while_scaling,
    faults::api_server_away,
    faults::node_cut_off,
    runbook::runbook_as_written,
];
