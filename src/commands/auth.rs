//! `wharf auth`: who may do what, by a configuration, and why.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use auth::bindings::{Folder, WatchedBindings, is_restricted, load};
use auth::rbac::{OneLine, Policy, Rbac, Remedy};
use auth::{
    AccessReviews, AnyUser, Authorizer, Cluster, Credential, Decision, Everyone, Identity,
    ResourceAttributes, Secret,
};
use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, ValueEnum};
use storage::{RepositoryName, Tag};

use super::File;
use crate::access::rights;
use crate::audit::AuditLog;
use crate::config::{Auth, ClusterPermission, Config, Deletion, Mode, Permission};
use crate::logins::Logins;

/// How it is called.
pub const EXAMPLES: &str = "\
Examples:
  wharf auth can-i push team/app --as system:serviceaccount:team:builder --config config.yml
  wharf auth can-i delete team/app:1.0 --as alice --as-group developers --config config.yml
  wharf auth can-i pull team/app --as system:anonymous --config config.yml
  kubectl create token -n team builder --audience image-registry > token
  wharf auth can-i pull team/app --token-file token --config config.yml";

/// Who wants to do what, and which configuration decides.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("who").required(true))]
pub struct Question {
    /// What is to be done.
    verb: Verb,
    /// What it is done to, without the host: NAMESPACE/IMAGE, and to delete a tag NAMESPACE/IMAGE:TAG; nothing for `list`.
    #[arg(required_if_eq_any([("verb", "pull"), ("verb", "push"), ("verb", "delete")]))]
    repository: Option<Target>,
    /// A file that holds the token of whoever asks. It is looked at as the server would.
    #[arg(long, value_name = "FILE", group = "who")]
    token_file: Option<PathBuf>,
    /// The user who asks, such as system:serviceaccount:NAMESPACE:NAME, whose groups are known, or system:anonymous.
    #[arg(long = "as", value_name = "USER", group = "who", value_parser = NonEmptyStringValueParser::new())]
    user: Option<String>,
    /// A group that the user is in; may be given several times.
    #[arg(long = "as-group", value_name = "GROUP", requires = "user")]
    groups: Vec<String>,
    /// The configuration file that the server has; without one, the answer is that of a server that has none.
    #[arg(long, value_name = "FILE", env = "REGISTRY_CONFIGURATION_PATH")]
    config: Option<OsString>,
}

impl Question {
    /// Tells which configuration decides.
    pub fn configuration(&self) -> Option<PathBuf> {
        File { file: self.config.clone() }.path()
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verb {
    /// Pull images from a repository, and list its tags.
    Pull,
    /// Push images to a repository.
    Push,
    /// Delete a tag, or without one manifests and blobs.
    Delete,
    /// List all repositories.
    List,
}

/// What an act is done to. A digest, as in `team/app@sha256:…`, says no more than the repository.
#[derive(Clone, Debug)]
struct Target {
    repository: RepositoryName,
    tag: Option<Tag>,
}

/// Answers the question on standard output: yes with 0, no with 1.
///
/// # Errors
/// When there is no answer: something cannot be read, or a token is not good.
pub async fn can_i(question: Question, config: &Config) -> anyhow::Result<ExitCode> {
    let act = Act::of(question.verb, question.repository.clone())?;
    let caller = who(&question, config).await?;
    let rules = Rules::of(&config.auth).await?;
    let Reasons { allowed, text } = rules.judge(&caller, &act).await?;
    let obstacle = act.obstacle(config);
    let allowed = allowed && obstacle.is_none();

    let mut output = io::stdout().lock();
    let (answer, may) = if allowed { ("yes", "may") } else { ("no", "may not") };
    writeln!(output, "{answer}: {} {may} {act}", OneLine(&caller.name))?;
    writeln!(output, "  their groups: {}", OneLine(&caller.groups.join(", ")))?;
    if question.configuration().is_none() {
        writeln!(
            output,
            "  that is so where the server has no configuration file; if it has one, name it (--config)"
        )?;
    }
    if let Some(obstacle) = obstacle {
        writeln!(output, "  nobody may: {obstacle}")?;
    }
    output.write_all(text.as_bytes())?;
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Tells who asks.
async fn who(question: &Question, config: &Config) -> anyhow::Result<Arc<Identity>> {
    let Some(path) = &question.token_file else {
        let user = question.user.clone().unwrap_or_default();
        return Ok(Arc::new(Identity::named(user, question.groups.clone())));
    };
    let Auth::Login(settings) = &config.auth else {
        bail!("the configuration has no `auth`: nobody logs in, and no token says anything");
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let credential = Credential::Token(Secret::new(text.trim()));
    let login =
        Logins::prepare(settings, &config.http.locations, String::new(), AuditLog::off()).await?.login;
    let known = login.identify(&credential, IpAddr::V4(Ipv4Addr::LOCALHOST)).await;
    Ok(known.with_context(|| format!("nobody logs in with what {} holds", path.display()))?.identity)
}

/// What is wanted.
enum Act {
    Pull(RepositoryName),
    Push(RepositoryName),
    Delete(RepositoryName),
    /// The second is what rights call the tag.
    DeleteTag(RepositoryName, String),
    List,
}

impl Act {
    fn of(verb: Verb, target: Option<Target>) -> anyhow::Result<Self> {
        let Some(target) = target else { return Ok(Self::List) };
        Ok(match verb {
            Verb::Pull => Self::Pull(target.repository),
            Verb::Push => Self::Push(target.repository),
            Verb::Delete => match target.tag {
                Some(tag) => {
                    let name = rights::tag_name(&target.repository, &tag);
                    Self::DeleteTag(target.repository, name)
                }
                None => Self::Delete(target.repository),
            },
            Verb::List => {
                bail!("`list` is about all repositories; whoever may `pull` from one may list its tags")
            }
        })
    }

    /// Each of these is needed, and for each one alternative is enough.
    fn needs(&self) -> Vec<Vec<ResourceAttributes<'_>>> {
        match self {
            Self::Pull(repository) => vec![vec![rights::pull(repository)]],
            Self::Push(repository) => rights::push(repository).map(|right| vec![right]).into(),
            Self::Delete(repository) => vec![rights::delete(repository).into()],
            Self::DeleteTag(repository, name) => vec![vec![rights::delete_tag(repository, name)]],
            Self::List => vec![vec![rights::list()]],
        }
    }

    fn first_of_each_need(&self) -> Vec<ResourceAttributes<'_>> {
        self.needs().into_iter().filter_map(|alternatives| alternatives.first().copied()).collect()
    }

    /// What keeps everybody from it.
    fn obstacle(&self, config: &Config) -> Option<&'static str> {
        let deletes = matches!(self, Self::Delete(_) | Self::DeleteTag(..));
        if config.storage.mode == Mode::ReadOnly && (deletes || matches!(self, Self::Push(_))) {
            return Some("the registry is read-only (storage.maintenance.readonly.enabled)");
        }
        let is_off = deletes && config.storage.deletion == Deletion::Refused;
        is_off.then_some("deletion is turned off (storage.delete.enabled)")
    }
}

/// What decides, and where that is written.
enum Rules {
    /// One answer, whatever is wanted.
    Fixed(Arc<dyn Authorizer>),
    /// Roles and bindings in a folder.
    Folder(Arc<Rbac>, PathBuf),
    /// Those of a cluster, which is asked about whoever they say too much of.
    Cluster(Arc<Rbac>, AccessReviews),
    /// The cluster, which says no more than yes or no.
    Asked(AccessReviews),
}

/// An answer, and why.
struct Reasons {
    allowed: bool,
    text: String,
}

impl Rules {
    /// The rules that a configuration names, as they are now.
    async fn of(auth: &Auth) -> anyhow::Result<Self> {
        let Auth::Login(login) = auth else { return Ok(Self::Fixed(Arc::new(Everyone::new()))) };
        Ok(match &login.permission {
            Permission::Users => Self::Fixed(Arc::new(AnyUser::new())),
            Permission::Folder(path) => Self::Folder(Folder::open(path)?.authorizer(), path.clone()),
            Permission::Cluster(wanted) => {
                let cluster = Cluster::connect(wanted.kubeconfig.as_deref(), wanted.outage).await?;
                match wanted.permission {
                    ClusterPermission::Bindings => {
                        Self::Cluster(WatchedBindings::read(&cluster).await?, AccessReviews::new(cluster)?)
                    }
                    ClusterPermission::AccessReviews => Self::Asked(AccessReviews::new(cluster)?),
                }
            }
        })
    }

    async fn judge(&self, caller: &Identity, act: &Act) -> anyhow::Result<Reasons> {
        match self {
            Self::Fixed(authorizer) => Ok(match authorizer.decide(caller, &rights::list()).await? {
                Decision::Allowed(by) => Reasons { allowed: true, text: format!("  {by}\n") },
                Decision::Denied => {
                    Reasons { allowed: false, text: "  whoever logs in may do everything\n".to_owned() }
                }
            }),
            Self::Folder(rbac, path) => {
                let help = |Remedy { kubectl, .. }| {
                    let folder = path.display();
                    format!(
                        "To allow it, put what this prints into a file of {folder}:\n  \
                         {kubectl} --dry-run=client --output=yaml\n"
                    )
                };
                Ok(rbac.read(|policy| explain(policy, caller, act, help)))
            }
            Self::Cluster(_, reviews) if is_restricted(caller) => ask(reviews, caller, act).await,
            Self::Cluster(rbac, _) => {
                let help = |remedy| format!("To allow it:\n{}", commands(remedy));
                Ok(rbac.read(|policy| explain(policy, caller, act, help)))
            }
            Self::Asked(reviews) => {
                let mut reasons = ask(reviews, caller, act).await?;
                // Its roles are not known here, but those that we ship are.
                let shipped = load(&[])?.policy;
                if !reasons.allowed
                    && !is_restricted(caller)
                    && let Some(remedy) = shipped.remedy(caller, &act.first_of_each_need())
                {
                    reasons.text += &format!(
                        "\n{}Where role bindings decide, this allows it:\n{}",
                        extent(&shipped, act, &remedy),
                        commands(remedy)
                    );
                }
                Ok(reasons)
            }
        }
    }
}

/// Tells why `caller` may or may not do `act`; `help` says in lines how to give them a role.
fn explain(policy: &Policy, caller: &Identity, act: &Act, help: impl FnOnce(Remedy) -> String) -> Reasons {
    let (mut granted, mut missing) = (String::new(), String::new());
    for alternatives in act.needs() {
        let in_groups = alternatives.iter().flat_map(rights::in_each_group);
        let mut explained = in_groups.map(|right| (right, policy.explain(caller, &right)));
        if let Some((right, why)) = explained.find(|(_, why)| why.is_allowed()) {
            granted += &format!("\nThey can {right}:\n{}", indented(&why.to_string()));
            continue;
        }
        for right in &alternatives {
            let why = policy.explain(caller, right).to_string();
            missing += &format!("\nThey cannot {right}:\n{}", indented(&why));
        }
    }
    if missing.is_empty() {
        return Reasons { allowed: true, text: granted };
    }
    if matches!(act, Act::List) {
        missing += "\nThe catalog shows them the repositories that they may pull from.\n";
    }
    missing.push('\n');
    missing += &match policy.remedy(caller, &act.first_of_each_need()) {
        Some(remedy) => extent(policy, act, &remedy) + &help(remedy),
        None => "No role for image registries gives all of that: apply deploy/rbac/roles.yaml or write one, \
                 and bind it.\n"
            .to_owned(),
    };
    Reasons { allowed: false, text: missing }
}

/// Asks the cluster whether `caller` may do `act`.
async fn ask(reviews: &AccessReviews, caller: &Identity, act: &Act) -> anyhow::Result<Reasons> {
    let (mut allowed, mut text) = (true, String::new());
    for alternatives in act.needs() {
        let mut because = None;
        for right in alternatives.iter().flat_map(rights::in_each_group) {
            if let Decision::Allowed(by) = reviews.decide(caller, &right).await? {
                because = Some(format!("\nThey can {right}:\n{}", indented(&OneLine(&by).to_string())));
                break;
            }
        }
        allowed &= because.is_some();
        let lack = || alternatives.iter().map(|right| format!("\nThey cannot {right}.\n")).collect();
        text += &because.unwrap_or_else(lack);
    }
    Ok(Reasons { allowed, text })
}

/// What a role gives besides, if it has to be given in the whole cluster: it counts for every repository then.
fn extent(policy: &Policy, act: &Act, remedy: &Remedy) -> String {
    let is_local = |right: &ResourceAttributes<'_>| !right.namespace.is_empty();
    if act.first_of_each_need().iter().any(is_local) {
        return String::new();
    }
    let gives = |alternatives: &[ResourceAttributes<'_>]| {
        let mut rights = alternatives.iter().flat_map(rights::in_each_group);
        rights.any(|right| policy.allows_in_cluster(&remedy.role, &right))
    };
    let given: Vec<&str> = [
        ("pull from", gives(&[rights::pull_everything()])),
        ("push to", gives(&[rights::push_everything()])),
        ("delete from", gives(&rights::delete_everything())),
    ]
    .into_iter()
    .filter_map(|(act, given)| given.then_some(act))
    .collect();
    if given.is_empty() {
        return String::new();
    }
    let role = OneLine(&remedy.role.name);
    format!("In the whole cluster {role} lets them {} every repository.\n", given.join(" and "))
}

/// How a cluster is told to give somebody a role.
fn commands(Remedy { kubectl, oc, .. }: Remedy) -> String {
    format!("  {kubectl}\nor on OpenShift:\n  {oc}\n")
}

fn indented(lines: &str) -> String {
    lines.lines().fold(String::new(), |text, line| text + "  " + line + "\n")
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.split_once('@').map_or(text, |(name, _digest)| name);
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag.parse().map_err(|error| why_not(&error))?)),
            None => (name, None),
        };
        Ok(Self { repository: name.parse().map_err(|error| why_not(&error))?, tag })
    }
}

/// Clap shows an error without its causes.
fn why_not(error: &dyn std::error::Error) -> String {
    format!("{error}; name it without the registry's host, as in team/app")
}

impl fmt::Display for Act {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pull(repository) => write!(formatter, "pull from {repository}"),
            Self::Push(repository) => write!(formatter, "push to {repository}"),
            Self::Delete(repository) => write!(formatter, "delete manifests and blobs of {repository}"),
            Self::DeleteTag(repository, name) => write!(formatter, "delete the tag {name} of {repository}"),
            Self::List => write!(formatter, "list all repositories"),
        }
    }
}
