//! Of a swarm the way that a token takes now, where its time goes, and what would help.

use anyhow::Result;
use bouquet_swarm::route::{HopTimes, Need, Plan};
use serde_json::{Value, json};

use super::super::{ranges, say_missing, short};
use super::{PlanArgs, milliseconds};
use crate::output;
use crate::swarm::{self, Connected, WaitArgs};

/// Tokens of a prompt, and tokens behind it, for which a client chooses its route.
const TOKENS: usize = 128;

/// The way of a token through a swarm as it is.
pub(super) fn of_swarm(args: &PlanArgs) -> Result<()> {
    let swarm = Connected::new(swarm::invite(&args.what)?, WaitArgs::default())?;
    let blocks = swarm.block_count()?;
    swarm.measure();
    let cache_tokens = u64::from(args.ctx);
    let need = Need { prompt_tokens: TOKENS, chunk_tokens: TOKENS, new_tokens: TOKENS, cache_tokens };
    let (missing, plan) = swarm.directory.with_servers(|servers| {
        let plan = servers.fastest(0..blocks, &need).ok().and_then(|route| servers.plan(&route, cache_tokens));
        (servers.missing(&(0..blocks)), plan)
    });
    let records = swarm.directory.records();
    let name = |hop: &HopTimes| {
        let named = records.iter().find(|(peer, _)| *peer == hop.hop.peer).map(|(_, record)| record.name.clone());
        named.filter(|name| !name.is_empty()).unwrap_or_else(|| short(&hop.hop.peer))
    };
    if args.json {
        return output::json(&json!({
            "model": swarm.invite.model,
            "encoding": swarm.invite.encoding,
            "wire": swarm.invite.wire.name(),
            "blocks": blocks,
            "servers": records.len(),
            "missing": missing.iter().map(|range| [range.start, range.end]).collect::<Vec<_>>(),
            "ctx": args.ctx,
            "route": plan.as_ref().map(|plan| route_as_json(plan, &name)),
        }));
    }
    let (model, computed) = (swarm::model_name(&swarm.invite), swarm::computed(&swarm.invite));
    output::line(&format!("{model}: {blocks} blocks, computed {computed}, wire {}\n", swarm.invite.wire.name()))?;
    let Some(plan) = plan else {
        return output::line(&match missing.is_empty() {
            true => "no way through it was found".to_owned(),
            false => say_missing(&missing, blocks),
        });
    };
    output::write(&route_table(&plan, &name))?;
    let sessions = match plan.hops.iter().find(|hop| !hop.fits) {
        None => format!("a session of {} fits", output::tokens(args.ctx as usize)),
        Some(full) => format!("a session of {} does not fit on {} now", output::tokens(args.ctx as usize), name(full)),
    };
    output::line(&format!(
        "\none session: {}; prompts: {}; {sessions}",
        output::speed(Some(plan.tokens_per_second())),
        output::speed(Some(plan.prompt_tokens_per_second())),
    ))?;
    output::line(&explained(&plan, &name))
}

/// What takes the time of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Compute,
    Network,
    Queue,
}

/// Seconds of a token by what takes them.
fn parts(plan: &Plan) -> [(Bound, f64); 3] {
    let sum = |part: fn(&HopTimes) -> f64| plan.hops.iter().map(part).sum::<f64>();
    [
        (Bound::Compute, sum(|hop| hop.compute_seconds)),
        (Bound::Network, sum(|hop| hop.link_seconds) + plan.back_seconds),
        (Bound::Queue, sum(|hop| hop.queue_seconds)),
    ]
}

/// What bounds a token, and how long that takes of it.
fn bound(plan: &Plan) -> (Bound, f64) {
    // Of equal ones the first: an empty plan is bound by computing nothing.
    parts(plan).into_iter().rev().max_by(|one, other| one.1.total_cmp(&other.1)).expect("there are three")
}

/// What bounds a token, and what helps.
fn explained(plan: &Plan, name: &dyn Fn(&HopTimes) -> String) -> String {
    let (bound, seconds) = bound(plan);
    let of = format!("{} of {} a token", milliseconds(seconds), milliseconds(plan.token_seconds()));
    let (hops, legs) = (plan.hops.len(), plan.hops.len() + 1);
    let Some(slowest) = plan.slowest() else { return "nobody has to be asked".to_owned() };
    let slowest = format!("{} (blocks {})", name(slowest), ranges(std::slice::from_ref(&slowest.hop.blocks)));
    match bound {
        Bound::Compute if hops == 1 => {
            format!(
                "bound by computing: {of} are spent in the blocks, all on {slowest};\na faster machine helps, more servers do not"
            )
        }
        Bound::Compute => format!(
            "bound by computing: {of} are spent in the blocks, most on {slowest};\na faster machine there helps; more servers \
             help prompts and several sessions, not one"
        ),
        Bound::Network => format!(
            "bound by the network: {of} are spent on the way, in {legs} legs;\nfewer servers with more blocks each help, or \
             nearer ones"
        ),
        Bound::Queue => format!(
            "bound by others: {of} are spent waiting behind other sessions, most on {slowest};\nanother server of these blocks \
             helps"
        ),
    }
}

fn route_table(plan: &Plan, name: &dyn Fn(&HopTimes) -> String) -> String {
    let mut rows =
        vec![["server", "blocks", "way there", "waiting", "blocks take", "of a token"].map(str::to_owned).to_vec()];
    let share = |seconds: f64| format!("{:.0} %", 100.0 * seconds / plan.token_seconds());
    for hop in &plan.hops {
        let times = [hop.link_seconds, hop.queue_seconds, hop.compute_seconds];
        let mut row = vec![name(hop), ranges(std::slice::from_ref(&hop.hop.blocks))];
        row.extend(times.map(milliseconds));
        row.push(share(times.iter().sum()));
        rows.push(row);
    }
    let back = ["back".to_owned(), String::new(), milliseconds(plan.back_seconds), String::new(), String::new()];
    rows.push(back.into_iter().chain([share(plan.back_seconds)]).collect());
    output::table(&rows, 2)
}

fn route_as_json(plan: &Plan, name: &dyn Fn(&HopTimes) -> String) -> Value {
    let hop = |hop: &HopTimes| {
        json!({
            "peer_id": hop.hop.peer.to_string(),
            "name": name(hop),
            "blocks": [hop.hop.blocks.start, hop.hop.blocks.end],
            "link_seconds": output::number(hop.link_seconds),
            "queue_seconds": output::number(hop.queue_seconds),
            "compute_seconds": output::number(hop.compute_seconds),
            "prompt_token_seconds": output::number(hop.prompt_token_seconds),
            "fits": hop.fits,
        })
    };
    let [(_, compute), (_, network), (_, queue)] = parts(plan);
    json!({
        "hops": plan.hops.iter().map(hop).collect::<Vec<_>>(),
        "back_seconds": output::number(plan.back_seconds),
        "token_seconds": output::number(plan.token_seconds()),
        "compute_seconds": output::number(compute),
        "network_seconds": output::number(network),
        "queue_seconds": output::number(queue),
        "tokens_per_second": output::number(plan.tokens_per_second()),
        "prompt_tokens_per_second": output::number(plan.prompt_tokens_per_second()),
        "fits": plan.hops.iter().all(|hop| hop.fits),
        "bound": match bound(plan).0 {
            Bound::Compute => "compute",
            Bound::Network => "network",
            Bound::Queue => "queue",
        },
        "slowest": plan.slowest().map(|hop| hop.hop.peer.to_string()),
        "explained": explained(plan, name).replace('\n', " "),
    })
}

#[cfg(test)]
mod tests {
    use bouquet_swarm::Hop;
    use libp2p_identity::PeerId;

    use super::*;

    /// Hops of so many seconds on the way, waiting and computing.
    fn plan(hops: &[[f64; 3]]) -> Plan {
        let hop = |(index, &[link_seconds, queue_seconds, compute_seconds]): (usize, &[f64; 3])| HopTimes {
            hop: Hop { peer: PeerId::random(), blocks: 2 * index..2 * index + 2 },
            link_seconds,
            queue_seconds,
            compute_seconds,
            prompt_token_seconds: compute_seconds / 4.0,
            fits: true,
        };
        Plan { hops: hops.iter().enumerate().map(hop).collect(), back_seconds: 0.001 }
    }

    #[test]
    fn what_bounds_a_token_is_said() {
        let cases = [
            (plan(&[[0.001, 0.0, 0.02], [0.001, 0.0, 0.03]]), Bound::Compute, "most on b (blocks 2:4)"),
            (plan(&[[0.001, 0.0, 0.02]]), Bound::Compute, "more servers do not"),
            (plan(&[[0.05, 0.0, 0.02], [0.05, 0.0, 0.03]]), Bound::Network, "101 ms of 151 ms a token"),
            (plan(&[[0.001, 0.2, 0.02], [0.001, 0.0, 0.03]]), Bound::Queue, "most on a (blocks 0:2)"),
        ];
        for (plan, expected, words) in cases {
            let name = |hop: &HopTimes| if hop.hop.blocks.start == 0 { "a" } else { "b" }.to_owned();
            let said = explained(&plan, &name);
            assert_eq!(bound(&plan).0, expected, "{said}");
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn the_table_adds_up() {
        let plan = plan(&[[0.001, 0.0, 0.02], [0.001, 0.002, 0.025]]);
        let table = route_table(&plan, &|_| "x".to_owned());
        assert!(table.contains("42 %") && table.contains("56 %") && table.contains("2 %"), "{table}");
        assert_eq!([0.00123, 0.0123, 0.123].map(milliseconds), ["1.23 ms", "12.3 ms", "123 ms"]);
    }
}
