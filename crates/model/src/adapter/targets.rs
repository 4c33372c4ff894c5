//! Which linears get a pair, as users name them: the last part of a linear's name in its family (`query_key_value`,
//! `q_proj`), its name in a block (`self_attn.q_proj`), or `all`. A name may stand for several, as that of a gate does
//! for those of all experts.

use bouquet_span::Site;

use super::keys::short_name;
use crate::ModelSpec;

/// Every linear of a block but the router, whose choices stay those of the model.
pub const ALL: &str = "all";

/// The sites of a block that the names stand for, in the order in which data passes them, each once.
///
/// # Errors
/// The first name that this family does not have; [`names`] lists those that it has.
pub fn parse<'a>(spec: &ModelSpec, typed: &[&'a str]) -> Result<Vec<Site>, &'a str> {
    let stands_for = |name: &str, site: Site| match name {
        ALL => site != Site::Router,
        name => {
            (spec.names.site)(site).is_some_and(|full| full == name)
                || short_name(&spec.names, site).as_deref() == Some(name)
        }
    };
    let sites: Vec<Site> = spec.block.linears().into_iter().map(|linear| linear.site).collect();
    if let Some(unknown) = typed.iter().find(|name| !sites.iter().any(|&site| stands_for(name, site))) {
        return Err(unknown);
    }
    Ok(sites.into_iter().filter(|&site| typed.iter().any(|name| stands_for(name, site))).collect())
}

/// The names that the linears of a block have, each once, in the order in which data passes them.
pub fn names(spec: &ModelSpec) -> Vec<String> {
    names_of(spec, spec.block.linears().into_iter().map(|linear| linear.site))
}

/// The names of some linears, each once; sites that the model does not have are passed over.
pub fn names_of(spec: &ModelSpec, sites: impl IntoIterator<Item = Site>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for site in sites.into_iter().filter(|&site| spec.block.linear(site).is_some()) {
        if let Some(name) = short_name(&spec.names, site).filter(|name| !names.contains(name)) {
            names.push(name);
        }
    }
    names
}
