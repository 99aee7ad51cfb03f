//! Tokens that a cluster keeps in Secrets (`kubernetes.io/service-account-token`), as pipelines outside of it have them: they are
//! for no audience in particular, and do not end.

use crate::{
    clients::{
        containers::Containers,
        team::{Account, BUILDER, assert_denied, with_secrets},
    },
    harness::{Image, tool},
};

#[tokio::test]
async fn what_is_in_a_secret_logs_in_and_may_do_what_is_bound_to_its_account() {
    let Some(team) = with_secrets().await else { return };
    let Some(alice) = Containers::near(&team.registry) else { return };
    let Some(crane) = tool::go("crane") else { return };
    team.bind(BUILDER).await;
    let (host, image) = (team.registry.host(), team.image());
    alice.lay_out("app", &Image::saying("for the team", &alice.busybox));
    let log_in = |account: &Account| format!("login -u {} -p {} {host}", account.name, account.token);
    let push = format!("copy oci:app:1 docker://{image}");
    let inspect = format!("inspect docker://{image}");

    alice.skopeo(log_in(&team.stranger)).await;
    assert_denied(&alice.skopeo_in_vain(&push).await);
    team.assert_told_why(&team.stranger, &alice.skopeo_in_vain(&inspect).await);

    alice.skopeo(log_in(&team.member)).await;
    alice.skopeo(&push).await;
    // One login is for all programs that look where docker does.
    assert_eq!(alice.run(&image).await, "for the team");
    alice.machine.run(&crane, ["copy", &image, &format!("{image}-again")]).await;

    team.unbind(BUILDER).await;
    team.assert_told_why(&team.member, &alice.skopeo_in_vain(&inspect).await);
    team.assert_told_why(&team.member, &alice.machine.run_in_vain(&crane, ["manifest", &image]).await);
}
