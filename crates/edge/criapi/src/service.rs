//! The two services: which call does what.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use prost::Message;
use serde_json::json;
use tokio::{sync::broadcast::error::RecvError, task::spawn_blocking};
use wharf_http::{Body, collect};

use crate::{
    cri::Cri,
    grpc::{self, Code, Failure, MAX_MESSAGE, Messages, PREFIX, Result, decode, encode},
    v1::{
        CgroupDriver, LinuxRuntimeConfiguration, ListContainerStatsRequest, ListContainersRequest,
        ListImagesRequest, ListPodSandboxRequest, ListPodSandboxStatsRequest, RuntimeCondition,
        RuntimeConfigRequest, RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures,
        RuntimeStatus, StatusRequest, StatusResponse, StreamContainerStatsRequest,
        StreamContainerStatsResponse, StreamContainersRequest, StreamContainersResponse, StreamImagesRequest,
        StreamImagesResponse, StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse,
        StreamPodSandboxesRequest, StreamPodSandboxesResponse, UpdateRuntimeConfigRequest,
        UpdateRuntimeConfigResponse, VersionRequest, VersionResponse,
    },
};

/// Things in one message of a list that streams.
const CHUNK: usize = 100;

impl Cri {
    /// Answers one call.
    pub async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        if let Some(refused) = not_grpc(request.method(), request.headers()) {
            return refused;
        }
        let path = request.uri().path().to_owned();
        let Ok(body) = collect(request.into_body(), MAX_MESSAGE + PREFIX).await else {
            let text = format!("the request is larger than {} MiB", MAX_MESSAGE >> 20);
            return grpc::unary(Err(Failure::new(Code::ResourceExhausted, text)));
        };
        match path.strip_prefix("/runtime.v1.") {
            Some(name) => self.call(name, body).await,
            None => grpc::unary(Err(unknown(&path))),
        }
    }

    async fn call(self: Arc<Self>, name: &str, body: Bytes) -> Response<Body> {
        let cri = self;
        grpc::unary(match name {
            "RuntimeService/Version" => cri.unary(body, |_, r| version(&r)).await,
            "RuntimeService/Status" => cri.unary(body, |cri, r| Ok(cri.status(&r))).await,
            "RuntimeService/RuntimeConfig" => cri.unary(body, |_, r| Ok(runtime_config(&r))).await,
            "RuntimeService/UpdateRuntimeConfig" => cri.unary(body, |_, r| update_runtime_config(&r)).await,
            "RuntimeService/RunPodSandbox" => cri.unary(body, Self::run_pod_sandbox).await,
            "RuntimeService/StopPodSandbox" => cri.unary(body, |cri, r| cri.stop_pod_sandbox(r)).await,
            "RuntimeService/RemovePodSandbox" => cri.unary(body, |cri, r| cri.remove_pod_sandbox(r)).await,
            "RuntimeService/PodSandboxStatus" => cri.unary(body, |cri, r| cri.pod_sandbox_status(r)).await,
            "RuntimeService/ListPodSandbox" => cri.unary(body, |cri, r| cri.list_pod_sandbox(r)).await,
            "RuntimeService/UpdatePodSandboxResources" => {
                cri.unary(body, |cri, r| cri.update_pod_sandbox_resources(r)).await
            }
            "RuntimeService/CreateContainer" => cri.unary(body, Self::create_container).await,
            "RuntimeService/StartContainer" => cri.unary(body, |cri, r| cri.start_container(r)).await,
            "RuntimeService/StopContainer" => cri.unary(body, |cri, r| cri.stop_container(r)).await,
            "RuntimeService/RemoveContainer" => cri.unary(body, |cri, r| cri.remove_container(r)).await,
            "RuntimeService/ListContainers" => cri.unary(body, |cri, r| cri.list_containers(r)).await,
            "RuntimeService/ContainerStatus" => cri.unary(body, |cri, r| cri.container_status(r)).await,
            "RuntimeService/UpdateContainerResources" => {
                cri.unary(body, |cri, r| cri.update_container_resources(r)).await
            }
            "RuntimeService/ReopenContainerLog" => {
                cri.unary(body, |cri, r| cri.reopen_container_log(r)).await
            }
            "RuntimeService/ExecSync" => cri.unary(body, |cri, r| cri.exec_sync(r)).await,
            "RuntimeService/Exec" => cri.unary(body, Self::exec).await,
            "RuntimeService/Attach" => cri.unary(body, Self::attach).await,
            "RuntimeService/PortForward" => cri.unary(body, Self::port_forward).await,
            "RuntimeService/ContainerStats" => cri.unary(body, |cri, r| cri.container_stats(r)).await,
            "RuntimeService/ListContainerStats" => {
                cri.unary(body, |cri, r| cri.list_container_stats(r)).await
            }
            "RuntimeService/PodSandboxStats" => cri.unary(body, |cri, r| cri.pod_sandbox_stats(r)).await,
            "RuntimeService/ListPodSandboxStats" => {
                cri.unary(body, |cri, r| cri.list_pod_sandbox_stats(r)).await
            }
            "ImageService/ListImages" => cri.unary(body, |cri, r| cri.list_images(r)).await,
            "ImageService/ImageStatus" => cri.unary(body, |cri, r| cri.image_status(r)).await,
            "ImageService/RemoveImage" => cri.unary(body, |cri, r| cri.remove_image(r)).await,
            "ImageService/ImageFsInfo" => cri.unary(body, |cri, r| cri.image_fs_info(r)).await,
            "ImageService/PullImage" => match decode(&body) {
                Ok(request) => cri.pull_image(request).await.map(|answer| encode(&answer)),
                Err(failure) => Err(failure),
            },
            other => return cri.stream(other, body).await,
        })
    }

    async fn stream(self: Arc<Self>, name: &str, body: Bytes) -> Response<Body> {
        let cri = self;
        let messages = match name {
            "RuntimeService/GetContainerEvents" => Ok(cri.follow_events()),
            "RuntimeService/StreamPodSandboxes" => {
                cri.list(body, |cri, r: StreamPodSandboxesRequest| {
                    let items = cri.list_pod_sandbox(ListPodSandboxRequest { filter: r.filter })?.items;
                    Ok(chunks(items, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
                })
                .await
            }
            "RuntimeService/StreamContainers" => {
                cri.list(body, |cri, r: StreamContainersRequest| {
                    let items = cri.list_containers(ListContainersRequest { filter: r.filter })?.containers;
                    Ok(chunks(items, |containers| StreamContainersResponse { containers }))
                })
                .await
            }
            "RuntimeService/StreamContainerStats" => {
                cri.list(body, |cri, r: StreamContainerStatsRequest| {
                    let items =
                        cri.list_container_stats(ListContainerStatsRequest { filter: r.filter })?.stats;
                    Ok(chunks(items, |container_stats| StreamContainerStatsResponse { container_stats }))
                })
                .await
            }
            "RuntimeService/StreamPodSandboxStats" => {
                cri.list(body, |cri, r: StreamPodSandboxStatsRequest| {
                    let items =
                        cri.list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter: r.filter })?.stats;
                    Ok(chunks(items, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
                })
                .await
            }
            "ImageService/StreamImages" => {
                cri.list(body, |cri, r: StreamImagesRequest| {
                    let items = cri.list_images(ListImagesRequest { filter: r.filter })?.images;
                    Ok(chunks(items, |images| StreamImagesResponse { images }))
                })
                .await
            }
            other => Err(unknown(other)),
        };
        match messages {
            Ok(messages) => grpc::streaming(messages),
            Err(failure) => grpc::unary(Err(failure)),
        }
    }

    /// One message in, one out; the work may block.
    async fn unary<Q, A, F>(self: Arc<Self>, body: Bytes, act: F) -> Result<Bytes>
    where
        Q: Message + Default + 'static,
        A: Message,
        F: FnOnce(&Arc<Self>, Q) -> Result<A> + Send + 'static,
    {
        let request = decode(&body)?;
        let done = spawn_blocking(move || act(&self, request).map(|answer| encode(&answer)));
        done.await.map_err(Failure::internal)?
    }

    async fn list<Q, F>(self: Arc<Self>, body: Bytes, act: F) -> Result<Messages>
    where
        Q: Message + Default + 'static,
        F: FnOnce(&Arc<Self>, Q) -> Result<Vec<Bytes>> + Send + 'static,
    {
        let request = decode(&body)?;
        let done = spawn_blocking(move || act(&self, request));
        let messages = done.await.map_err(Failure::internal)??;
        Ok(Box::pin(stream::iter(messages.into_iter().map(Ok))))
    }

    fn follow_events(&self) -> Messages {
        let events = stream::unfold(self.events.subscribe(), |mut events| async move {
            let next = match events.recv().await {
                Ok(event) => Ok(encode(&event)),
                // The listener begins anew, and lists what there is.
                Err(RecvError::Lagged(missed)) => Err(Failure::new(
                    Code::ResourceExhausted,
                    format_args!("{missed} events were not read in time"),
                )),
                Err(RecvError::Closed) => return None,
            };
            Some((next, events))
        });
        events.boxed()
    }

    fn status(&self, request: &StatusRequest) -> StatusResponse {
        let ready =
            |kind: &str| RuntimeCondition { r#type: kind.to_owned(), status: true, ..Default::default() };
        let mut info = BTreeMap::new();
        if request.verbose {
            let facts = json!({ "data": self.config.data, "cgroupDriver": "cgroupfs" });
            info.insert("config".to_owned(), facts.to_string());
        }
        let features = RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: crate::host::user_namespaces(),
        };
        StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![ready("RuntimeReady"), ready("NetworkReady")] }),
            info,
            runtime_handlers: vec![RuntimeHandler { name: String::new(), features: Some(features) }],
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
        }
    }
}

/// Whoever speaks something else is told so in HTTP's words.
fn not_grpc(method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if method == Method::POST && kind.starts_with("application/grpc") {
        return None;
    }
    let mut response = Response::new(wharf_http::full("this socket speaks gRPC: runtime.v1\n"));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Some(response)
}

fn unknown(name: &str) -> Failure {
    Failure::new(Code::Unimplemented, format_args!("the method {name} is not supported"))
}

fn chunks<T: Clone, M: Message>(items: Vec<T>, message: impl Fn(Vec<T>) -> M) -> Vec<Bytes> {
    items.chunks(CHUNK).map(|chunk| encode(&message(chunk.to_vec()))).collect()
}

fn version(request: &VersionRequest) -> Result<VersionResponse> {
    // The kubelet names the version of its own interface to the runtime.
    if !matches!(request.version.as_str(), "" | "v1" | "0.1.0") {
        return Err(Failure::invalid(format_args!(
            "the version {} is not supported, only v1",
            request.version
        )));
    }
    Ok(VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "wharf".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}

fn runtime_config(_: &RuntimeConfigRequest) -> RuntimeConfigResponse {
    let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 };
    RuntimeConfigResponse { linux: Some(linux) }
}

/// The pod network is wharf's own: a range of addresses from outside cannot be taken.
fn update_runtime_config(request: &UpdateRuntimeConfigRequest) -> Result<UpdateRuntimeConfigResponse> {
    let range = request.runtime_config.as_ref().and_then(|config| config.network_config.as_ref());
    if let Some(range) = range.filter(|range| !range.pod_cidr.is_empty()) {
        tracing::warn!(pod_cidr = range.pod_cidr, "the pod network keeps its own range of addresses");
    }
    Ok(UpdateRuntimeConfigResponse {})
}
