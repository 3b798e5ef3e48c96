//! Manifests applied by a workflow, waited for, and refused.

use serde_json::json;
use wharf_client::Gvr;

use crate::platform::{Platform, WORKFLOW};

pub(crate) async fn deploy_applies_manifests() {
    let platform = Platform::start().await;
    let workflow = r#"
on: push
jobs:
  deploy:
    runs-on: wharf
    container: base/python
    environment: {name: staging, url: "${{ steps.d.outputs.url }}"}
    steps:
      - uses: actions/checkout@v4
      - uses: wharf/deploy@v1
        id: d
        with: {manifests: deploy, namespace: shop-staging, image: "shop:new", wait: WAIT}
"#;
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {selector: {app: shop}, ports: [{port: 80}]}\n";
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\nspec:\n  selector: {matchLabels: {app: shop}}\n  template:\n    metadata: {labels: {app: shop}}\n    spec: {containers: [{name: shop, image: 'shop:old'}]}\n";
    let files = [("deploy/10-config.yaml", config), ("deploy/20-deployment.yaml", deployment)];
    let shown =
        platform.push(&[&files[..], &[(WORKFLOW, &workflow.replace("WAIT", "false"))]].concat()).await;
    assert!(shown.contains("run shop-1 succeeded"), "{shown}");
    let found = platform
        .client
        .get(&wharf_client::action::DEPLOYMENTS, "shop-staging", "shop")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.pointer("/spec/template/spec/containers/0/image").unwrap(), "shop:new");
    let job = &platform.run("shop-1").await["status"]["jobs"][0];
    assert_eq!(
        (job["environment"].as_str(), job["url"].as_str()),
        (Some("staging"), Some("http://127.0.0.1:8080"))
    );

    // Waiting ends when the status says so; here the test plays the controller.
    let client = platform.client.clone();
    let play = async {
        platform.until("shop-2", |run| run["status"]["jobs"][0]["steps"][1]["status"] == "in_progress").await;
        let deployments = wharf_client::action::DEPLOYMENTS;
        let informer = wharf_client::Informer::start(
            client.clone(),
            deployments.clone(),
            wharf_client::ListParams::namespace("shop-staging"),
        );
        let mut changes = informer.subscribe();
        loop {
            let object = changes.recv().await.unwrap().new.unwrap();
            if object.pointer("/spec/replicas") == Some(&json!(2)) {
                let status = json!({"observedGeneration": object["metadata"]["generation"], "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2});
                client.patch_status(&deployments, "shop-staging", "shop", &status).await.unwrap();
                return;
            }
        }
    };
    let two = deployment.replace("spec:\n  selector", "spec:\n  replicas: 2\n  selector");
    let changed =
        [("deploy/20-deployment.yaml", two.as_str()), (WORKFLOW, &workflow.replace("WAIT", "true"))];
    let (shown, ()) = tokio::join!(platform.push(&changed), play);
    assert!(
        shown.contains("Deployment shop: rolled out") && shown.contains("run shop-2 succeeded"),
        "{shown}"
    );
    let shown = platform.push(&[("deploy/20-deployment.yaml", &two.replace("apps/v1", "apps/v9"))]).await;
    assert!(shown.contains("Deployment shop: the cluster does not serve apps/v9"), "{shown}");

    // Pods that do not come up say why: soon where waiting cannot mend it, else at the end.
    let sick = |reason: &str, message: &str| {
        json!({"phase": "Pending", "containerStatuses": [{"name": "shop", "image": "x", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]})
    };
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    platform.client.create(&Gvr::fixed("", "v1", "serviceaccounts"), "shop-staging", &account).await.unwrap();
    let pods = wharf_client::action::PODS;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop-1", "labels": {"app": "shop"}},
        "spec": {"containers": [{"name": "shop", "image": "shop:new"}]}});
    platform.client.create(&pods, "shop-staging", &pod).await.unwrap();
    for (reason, message, minutes, three, expected) in [
        (
            "ErrImagePull",
            "no such image",
            "0.05",
            "3",
            "Deployment shop was not rolled out within 0.05 minutes: the change has not been taken up yet: the pod \
             shop-1, container shop: ErrImagePull: no such image",
        ),
        (
            "InvalidImageName",
            "it is none",
            "9",
            "4",
            "wharf/deploy: Deployment shop: the pod shop-1, container shop: InvalidImageName: it is none",
        ),
    ] {
        let status = sick(reason, message);
        platform.client.patch_status(&pods, "shop-staging", "shop-1", &status).await.unwrap();
        let waits = workflow.replace("WAIT", &format!("true, timeout-minutes: {minutes}"));
        let more = two.replace("replicas: 2", &format!("replicas: {three}"));
        let shown = platform.push(&[("deploy/20-deployment.yaml", &more), (WORKFLOW, &waits)]).await;
        let pushed: String = shown.replace('\n', " ");
        assert!(pushed.contains(expected), "{expected}\n{shown}");
        assert!(shown.contains("  hint: "), "{shown}");
    }

    // A slip of the pen is named with its file; what is kept and not acted on is told of.
    let balanced = config.replace("spec: {selector", "spec: {type: LoadBalancer, selector");
    let slip = two.replace("replicas: 2", "replicaz: 3");
    let shown = platform
        .push(&[("deploy/10-config.yaml", balanced.as_str()), ("deploy/20-deployment.yaml", &slip)])
        .await;
    for line in
        ["warning: deploy/10-config.yaml: Service shop: ", "cannot apply Deployment shop: ", "spec.replicaz"]
    {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    platform.end().await;
}
