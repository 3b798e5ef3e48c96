//! ScaledObjects: see `wharf_scale::scaled_object`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use wharf_client::{
    Client, Gvr, Informer, Result,
    action::{SECRETS, SERVICES},
};
use wharf_control::Step;
use wharf_scale::{
    HORIZONTAL_POD_AUTOSCALERS, SCALED_OBJECTS,
    behavior::History,
    hpa::Autoscaler,
    scaled_object::{Measured, ScaledObject, Trigger, View, redis_address, step},
};

use super::{
    cache::Typed,
    keys,
    measure::{Measure, ask},
    redis,
    runner::{Controller, Seen, Shared, Watch},
    scale_target::Targets,
};

/// Triggers are looked at this often.
const EVERY: Duration = Duration::from_secs(1);
const TRIGGER_AUTHENTICATIONS: Gvr = Gvr::fixed("keda.sh", "v1alpha1", "triggerauthentications");

pub(crate) struct ScaledObjects {
    objects: Arc<Typed<ScaledObject>>,
    autoscalers: Arc<Typed<Autoscaler>>,
    services: Informer,
    client: Client,
    targets: Targets,
    measure: Arc<dyn Measure>,
    histories: Mutex<HashMap<String, History>>,
}

impl ScaledObjects {
    pub(crate) fn new(shared: &Shared, measure: &Arc<dyn Measure>) -> Self {
        Self {
            objects: shared.informers.typed(SCALED_OBJECTS),
            autoscalers: shared.informers.typed(HORIZONTAL_POD_AUTOSCALERS),
            services: shared.informers.of(&SERVICES),
            client: shared.client.clone(),
            targets: Targets::new(shared.client.clone()),
            measure: Arc::clone(measure),
            histories: Mutex::default(),
        }
    }

    async fn measured(&self, namespace: &str, trigger: &Trigger) -> Measured {
        match trigger.kind.as_str() {
            "prometheus" => {
                let query = trigger.metadata.get("query").cloned().unwrap_or_default();
                match ask(&self.measure, move |measure| measure.now(&query)).await {
                    // As KEDA: no result counts as nothing to do, several cannot be told apart.
                    Ok(samples) => match samples.as_slice() {
                        [] => Measured::Number(0.0),
                        [sample] => Measured::Number(sample.value),
                        _ => Measured::Unknown("the query gives more than one series; sum them".into()),
                    },
                    Err(problem) => Measured::Unknown(problem),
                }
            }
            "redis" => match self.list_length(namespace, trigger).await {
                Ok(length) => Measured::Number(length as f64),
                Err(problem) => Measured::Unknown(problem),
            },
            _ => Measured::None,
        }
    }

    async fn list_length(&self, namespace: &str, trigger: &Trigger) -> Result<i64, String> {
        let address = redis_address(trigger);
        let (host, port) = address.rsplit_once(':').unwrap_or((&address, "6379"));
        let port = port.parse().map_err(|_| format!("{address:?} names no port"))?;
        let secrets = self.secrets(namespace, trigger).await?;
        let login = redis::Login {
            username: secrets.get("username").cloned(),
            password: secrets.get("password").cloned(),
            database: trigger.metadata.get("databaseIndex").and_then(|i| i.parse().ok()).unwrap_or(0),
        };
        let list = trigger.metadata.get("listName").cloned().unwrap_or_default();
        redis::list_length(&self.resolve(namespace, host), port, &login, &list).await
    }

    /// The address of a Service where `host` names one, as cluster DNS would answer.
    fn resolve(&self, namespace: &str, host: &str) -> String {
        let host = host.trim_end_matches(".cluster.local").trim_end_matches(".svc");
        let key = match host.split_once('.') {
            Some((name, other)) => format!("{other}/{name}"),
            None => format!("{namespace}/{host}"),
        };
        let address = self.services.get(&key).map(|s| keys::text(&s, "/spec/clusterIP").to_owned());
        address.filter(|a| !a.is_empty() && a != "None").unwrap_or_else(|| host.to_owned())
    }

    /// What the trigger's TriggerAuthentication takes from Secrets.
    async fn secrets(&self, namespace: &str, trigger: &Trigger) -> Result<BTreeMap<String, String>, String> {
        let mut found = BTreeMap::new();
        let Some(reference) = &trigger.authentication_ref else { return Ok(found) };
        let name = reference["name"].as_str().unwrap_or_default();
        if reference.get("kind").is_some_and(|k| k != "TriggerAuthentication") {
            return Err(format!(
                "authenticationRef {name}: only the kind TriggerAuthentication is supported"
            ));
        }
        let get = |resource: Gvr, name: String| async move {
            let object = self.client.get(&resource, namespace, &name).await.map_err(|e| e.to_string())?;
            object.ok_or_else(|| format!("there is no {} {name:?}", resource.resource))
        };
        let authentication = get(TRIGGER_AUTHENTICATIONS, name.to_owned()).await?;
        if let Some(other) =
            authentication["spec"].as_object().and_then(|s| s.keys().find(|k| *k != "secretTargetRef"))
        {
            return Err(format!(
                "TriggerAuthentication {name}: spec.{other} is not supported; secretTargetRef is"
            ));
        }
        for entry in authentication["spec"]["secretTargetRef"].as_array().into_iter().flatten() {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let secret = get(SECRETS, text("name")).await?;
            let value = secret["data"][text("key")].as_str().and_then(|v| STANDARD.decode(v).ok());
            let value = value.and_then(|v| String::from_utf8(v).ok());
            let value =
                value.ok_or_else(|| format!("Secret {:?} has no text {:?}", text("name"), text("key")))?;
            found.insert(text("parameter"), value);
        }
        Ok(found)
    }
}

/// Time zones the triggers name, out of the machine's time zone database.
fn zones(object: &ScaledObject) -> BTreeMap<String, jiff::tz::TimeZone> {
    let names = object.spec.triggers.iter().filter_map(|t| t.metadata.get("timezone"));
    names.filter_map(|name| Some((name.clone(), jiff::tz::TimeZone::get(name).ok()?))).collect()
}

impl Controller for ScaledObjects {
    const NAME: &'static str = "keda-operator";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.objects.informer, |_, change| keys::own(change))]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(object) = self.objects.get(key) else {
            self.histories.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(Step::idle());
        };
        let namespace = keys::namespace(key);
        let target = &object.spec.scale_target_ref;
        let scale = self.targets.read(namespace, target).await;
        let objects = self.objects.in_namespace(namespace);
        let autoscalers = self.autoscalers.in_namespace(namespace);
        let conflict = object.conflict(objects.iter().map(Arc::as_ref), autoscalers.iter().map(Arc::as_ref));
        let mut measured = Vec::new();
        if object.problem().is_none() && conflict.is_none() {
            for trigger in &object.spec.triggers {
                measured.push(self.measured(namespace, trigger).await);
            }
        }
        let decision = {
            let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
            let view = View {
                object: &object,
                replicas: scale.as_ref().map(|s| s.asked).map_err(Clone::clone),
                conflict,
                measured: &measured,
                zones: &zones(&object),
            };
            step(&view, histories.entry(key.to_owned()).or_default(), seen.now)
        };
        if let (Some(replicas), Ok(scale)) = (decision.replicas, &scale) {
            self.targets.set(namespace, &target.name, &scale.resource, replicas).await?;
        }
        let requeue_after = Some(decision.requeue_after.map_or(EVERY, |wait| wait.min(EVERY)));
        Ok(Step { actions: decision.actions, requeue_after })
    }
}
