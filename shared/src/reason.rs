//! Why a process is in its state: stable ids for programs, a remedy for people.

/// One reason. Ids never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// What the API shows as `reason`.
    pub id: &'static str,
    /// What to do about it, in one line.
    pub remedy: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $remedy:literal;)*) => {
        $($(#[$doc])* pub const $name: Reason = Reason { id: $id, remedy: $remedy };)*
        /// Every reason.
        pub const ALL: &[Reason] = &[$($name),*];
    };
}

reasons! {
    /// The revision's image is still being built.
    WAITING_FOR_IMAGE = "waiting_for_image", "Wait; GET /api/v1/functions/{name} shows the build.";
    /// The revision's image could not be built.
    IMAGE_BUILD_FAILED = "image_build_failed", "The message names the line; mend the source and declare the function again.";
    /// No node has room or fits.
    UNSCHEDULABLE = "unschedulable", "Ask for less CPU or memory, or add a node; the message says what is missing.";
    /// No node has the GPUs that it asks for to spare.
    INSUFFICIENT_GPU = "insufficient_gpu", "Add a node with GPUs, or wait until others end; a node offers them as the resource that the manager's OCTOPUS_GPU_RESOURCE names, under the labels of OCTOPUS_GPU_NODE_SELECTOR.";
    /// There is no such PersistentVolumeClaim.
    VOLUME_NOT_FOUND = "volume_not_found", "Make the PersistentVolumeClaim that the message names, in the function namespace; the pod waits for it.";
    /// The PersistentVolumeClaim has no volume yet.
    VOLUME_PENDING = "volume_pending", "Make a PersistentVolume that the claim fits, or give the claim a storage class that makes one.";
    /// The node cannot mount a volume of the pod.
    VOLUME_NOT_MOUNTED = "volume_not_mounted", "The message is the node's own: check that the storage answers, and that no other node holds the volume; it is tried again by itself.";
    /// The node cannot make the pod's sandbox: its network or its runtime fails.
    SANDBOX_FAILED = "sandbox_failed", "Check the network plug-in and the container runtime of the node that the message names; it is tried again by itself.";
    /// The function runs and does not answer the question for its health.
    UNHEALTHY = "unhealthy", "Read the end of the log: the function has to answer its health route, or to accept connections on its port.";
    /// The namespace's quota is used up.
    QUOTA_EXCEEDED = "quota_exceeded", "End other processes or raise the ResourceQuota of the function namespace.";
    /// The node does not find the image.
    IMAGE_NOT_FOUND = "image_not_found", "Check that the name nodes pull from is the registry that the manager pushes to.";
    /// The node cannot pull the image at the moment.
    IMAGE_PULL_FAILED = "image_pull_failed", "Check that the node reaches the registry and trusts its certificate; it is tried again by itself.";
    /// The registry does not let the node read the image.
    IMAGE_PULL_UNAUTHORIZED = "image_pull_unauthorized", "Check the Secret that the manager's OCTOPUS_REGISTRY_PULL_SECRET names: its user has to be allowed to read from the registry.";
    /// The image's name is malformed.
    INVALID_IMAGE_NAME = "invalid_image_name", "Check the manager's setting of the name that nodes pull from.";
    /// The container's configuration names something that is not there.
    CONFIG_ERROR = "config_error", "Make what the message names in the function namespace: the Secret, or the key in it; it is tried again by itself.";
    /// The container could not be started.
    START_ERROR = "start_error", "Check the command and the image; the message is the node's own.";
    /// The route that sets the function up did not answer with success.
    SET_UP_FAILED = "set_up_failed", "Read the end of the log; the set-up route has to answer 200 to 299 within start_seconds.";
    /// The route that sets the function up was asked once and answered with success.
    SET_UP_PERFORMED = "set_up_performed", "";
    /// It tried to make more processes and threads than its node allows in a pod.
    PROCESS_LIMIT = "process_limit", "Start fewer threads and processes, or raise podPidsLimit of the nodes' kubelet.";
    /// The container ends again and again.
    CRASH_LOOP = "crash_loop", "Read the log of the last run: the function ends by itself.";
    /// The container ended with an exit code other than 0.
    EXIT_CODE = "exit_code", "Read the end of the log.";
    /// The container was ended by a signal.
    SIGNAL = "signal", "Read the end of the log; 139 is a crash in native code.";
    /// The kernel ended the container for its memory.
    OOM_KILLED = "oom_killed", "Raise resources.memory or use less.";
    /// The task ran longer than its timeout.
    DEADLINE_EXCEEDED = "deadline_exceeded", "Raise timeout_seconds or do less in one task.";
    /// The node ended the pod to save itself.
    EVICTED = "evicted", "Raise resources.ephemeral_storage or print and write less.";
    /// Its files in /tmp outgrew their limit, and the node ended the pod.
    EVICTED_SCRATCH = "evicted_scratch", "Raise resources.ephemeral_storage, write less into /tmp, or keep models on a volume.";
    /// Its log outgrew the room that it has on the node, and the node ended the pod.
    EVICTED_LOG_VOLUME = "evicted_log_volume", "Print less: it printed faster than the node rotates logs away.";
    /// Its files in /dev/shm outgrew their limit, and the node ended the pod.
    EVICTED_SHARED_MEMORY = "evicted_shared_memory", "Raise resources.shared_memory or use less of it.";
    /// The pod's node is not answering.
    NODE_LOST = "node_lost", "Check the node; nothing is known about the container.";
    /// Pods of a higher priority took its room.
    PREEMPTED = "preempted", "Add a node, or free room on the ones that there are; a task with retries starts its next attempt.";
    /// Its node was shut down.
    NODE_SHUTDOWN = "node_shutdown", "Wait until the node is back, or add one; a task with retries starts its next attempt.";
    /// The node refused the pod that the scheduler gave it, and nothing of it ran.
    NODE_REFUSED = "node_refused", "The message says what the node lacks; mend the node or start it again.";
    /// The pod is being deleted, and its containers have time to end.
    TERMINATING = "terminating", "Wait: its containers have their grace period to end. A service that wants the pod gets another one.";
    /// Somebody else deleted the pod.
    DELETED_BY_OTHER = "deleted_by_other", "Ask who deleted it; a task with retries starts its next attempt.";
    /// New pods of a service take the place of earlier ones.
    ROLLING_OUT = "rolling_out", "Wait; the earlier pods answer until the new ones are ready.";
    /// The new pods of a service do not become ready.
    ROLLOUT_HINDERED = "rollout_hindered", "The earlier pods go on answering. Mend what the message names, or update to a revision that works.";
    /// Fewer pods of a service are ready than are wanted.
    PARTLY_READY = "partly_ready", "Those that are ready answer; the message and the process's pods say what the others wait for.";
    /// No pod of the service is wanted.
    SCALED_TO_ZERO = "scaled_to_zero", "POST /api/v1/processes/{id}/scale with the replicas that are wanted.";
    /// A restart of the service was begun.
    RESTART_REQUESTED = "restart_requested", "";
    /// An update of the service to another revision was begun.
    UPDATE_REQUESTED = "update_requested", "";
    /// A new number of pods of the service was set.
    SCALE_REQUESTED = "scale_requested", "";
    /// It was killed through the API.
    KILL_REQUESTED = "kill_requested", "";
    /// It was killed before anything of it existed.
    KILLED_BEFORE_CREATION = "killed_before_creation", "";
    /// Its command was cancelled.
    CANCELLED = "cancelled", "";
    /// Its pod was deleted by force or in a hurry, before anybody saw its containers end.
    KILL_UNCONFIRMED = "kill_unconfirmed", "Check the node: the container may still run.";
    /// Kubernetes refused the objects.
    REJECTED_BY_CLUSTER = "rejected_by_cluster", "The message is the API server's own; check the namespace's policies.";
    /// The manager lacks the setting that its way of being exposed needs.
    EXPOSE_NOT_OFFERED = "expose_not_offered", "Ask the operator for the setting that the message names, or declare the function with expose: cluster_ip.";
    /// An object of that name exists and is not this process's.
    NAME_TAKEN = "name_taken", "Remove or rename the foreign object in the function namespace.";
    /// The cluster could not be reached for too long.
    CLUSTER_UNREACHABLE = "cluster_unreachable", "GET /api/v1/clusters shows why.";
    /// Nobody had begun the command by the deadline that it was given.
    COMMAND_DEADLINE_EXCEEDED = "command_deadline_exceeded", "GET /api/v1/clusters shows whether its managers live and how long the queue is; then ask again.";
    /// Every manager that took the command died.
    RESCUED_TOO_OFTEN = "rescued_too_often", "Look at the manager's log; the command itself may be what ends it.";
}

/// Why a node does not get an image: with one of these no container of the pod was made.
pub const OF_IMAGES: [Reason; 4] = [
    IMAGE_NOT_FOUND,
    IMAGE_PULL_UNAUTHORIZED,
    IMAGE_PULL_FAILED,
    INVALID_IMAGE_NAME,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::ALL;

    #[test]
    fn the_page_of_reasons_has_each_with_its_remedy() {
        let page = include_str!("../../docs/reasons.md");
        for reason in ALL {
            let row = page
                .lines()
                .find(|line| line.starts_with(&format!("| `{}` |", reason.id)));
            assert!(
                row.is_some_and(|row| row.contains(reason.remedy)),
                "docs/reasons.md does not have {} with its remedy: {row:?}",
                reason.id
            );
        }
    }

    #[test]
    fn ids_are_unique() {
        let ids: HashSet<_> = ALL.iter().map(|reason| reason.id).collect();
        assert_eq!(ids.len(), ALL.len());
    }
}
