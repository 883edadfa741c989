//! One pass: the straight line.
//!
//! ```text
//! observe -> validate -> plan -> apply (all but the step) -> report -> look and plan once more -> the step
//! ```
//!
//! A dangerous step is taken only if the same step comes out of a second look, after everything else of the pass: the
//! first look may be seconds old by then. What the pass keeps between calls is nothing that could not be lost: killed
//! anywhere, the next pass begins from the front and does what is left.

use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::error::Error;
use crate::name::ClusterName;
use crate::observe::{Look, Sight, observe};
use crate::plan::{Plan, Step, hindered, invalid, is_refused, plan};
use crate::validate::validate;
use crate::{apply, clock, report};

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// At the latest after this time.
    After(Duration),
    /// Only when something changes.
    OnChange,
}

/// One pass over one cluster.
///
/// # Errors
/// What ended it early. Nothing is half done: each call stands for itself.
pub async fn reconcile(ctx: &Arc<Context>, name: &ClusterName) -> Result<Again, Error> {
    let Some(sight) = Box::pin(observe(ctx, name, Look::Usual)).await? else {
        ctx.forget(name);
        return Ok(Again::OnChange);
    };
    if sight.object.metadata.deletion_timestamp.is_some() {
        // ownerReferences do what is to be done; volumes are kept unless the spec gave them away.
        ctx.watches.forget(name);
        return Ok(Again::OnChange);
    }
    let mut plan = planned(ctx, &sight);
    follow(ctx, name, &sight, &plan);
    let settled = apply::settle(ctx, name, &sight, &plan).await;
    if let Err(error) = &settled {
        // What the cluster is like does not depend on that; it is told all the same.
        let recorded = sight.object.status.clone().unwrap_or_default();
        let refusal = error.needs_somebody().then(|| error.to_string());
        if !is_refused(&recorded.conditions, refusal.as_deref()) {
            report::failed(ctx, &sight.object, "A change of the cluster's objects", error).await;
        }
        plan.status = hindered(plan.status, &recorded, refusal, clock::wall());
    }
    report::status(ctx, name, &sight.object, &plan.status, &plan.events).await?;
    if let Err(error) = settled
        && error.blocks()
    {
        return Err(error);
    }
    if plan.step.is_act() {
        return Box::pin(act(ctx, name, sight, plan)).await;
    }
    Ok(Again::After(plan.requeue))
}

/// A spec that is wrong has a plan, too: it touches nothing and says what is wrong.
fn planned(ctx: &Context, sight: &Sight) -> Plan {
    let now = clock::wall();
    match validate(&sight.object, &ctx.operator) {
        Ok(cluster) => plan(&cluster, &sight.observed, now),
        Err(faults) => invalid(&sight.object, &sight.observed, &faults, now),
    }
}

/// The step, on a look of its own if it could do harm.
async fn act(ctx: &Context, name: &ClusterName, sight: Sight, planned_first: Plan) -> Result<Again, Error> {
    let step = planned_first.step;
    let sight = if step.is_dangerous() {
        let Some(again) = Box::pin(observe(ctx, name, Look::Fresh)).await? else {
            return Ok(Again::OnChange);
        };
        let same = planned(ctx, &again).step == step;
        if !same {
            tracing::info!(cluster = %name, step = %step, "not taken: a second look asks for something else");
            return Ok(Again::After(SOON));
        }
        again
    } else {
        sight
    };
    match apply::take(ctx, name, &sight, &step).await {
        Ok(changed) => {
            if changed || matches!(step, Step::RecordClusterId { .. }) {
                report::taken(ctx, &sight.object, &step).await;
            }
            Ok(Again::After(planned_first.requeue.min(SOON)))
        }
        Err(error) => {
            report::failed(ctx, &sight.object, &format!("The step \"{step}\""), &error).await;
            Err(error)
        }
    }
}

/// Pause after a step: what it caused is seen by a look of its own.
const SOON: Duration = Duration::from_millis(200);

/// Listens to the nodes that this look found.
fn follow(ctx: &Context, name: &ClusterName, sight: &Sight, plan: &Plan) {
    let recorded = plan.status.cluster_id.as_deref().and_then(|id| id.parse().ok());
    ctx.watches.follow(name, recorded, &sight.addresses);
}
