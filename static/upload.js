// Uploads of this browser: the bridge says which file is wanted, and that one is sent.
//
// Lists are always in the order of paths, so a file has the same number when the same files are picked again
// after a reload; that is all it takes to go on.

import { get, post, put } from "./api.js";
import { tell } from "./live.js";

/** How long the bridge holds back its answer to what is wanted, in seconds. */
const WAIT_SECONDS = 20;
/** Between two looks at a job that rests, in milliseconds. */
const REST_LOOK = 1000;
/** Failures in a row before an upload is given up. */
const FAILURES_MAX = 5;

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** The uploads that this page has the files of: by job. */
const uploads = new Map();

class Upload {
  constructor(id, files) {
    this.id = id;
    this.files = files;
    this.sent = 0;
    /** By number: "sending", "sent" or "failed". */
    this.states = new Map();
    this.sending = null;
  }

  async run() {
    for (let failures = 0; failures < FAILURES_MAX; ) {
      try {
        const { job } = await get(`/api/jobs/${this.id}?wait=${WAIT_SECONDS}`);
        if (["completed", "failed", "cancelled"].includes(job.state)) return this.end(job);
        const wanted = job.upload.wanted;
        if (job.state !== "running" || wanted === null) {
          await pause(job.state === "running" ? REST_LOOK / 4 : REST_LOOK);
          continue;
        }
        if (!this.fits(wanted, job.upload.wanted_path)) throw new Error("These are not the files of that upload.");
        await this.sendFrom(wanted);
        failures = 0;
      } catch (error) {
        if (error.aborted || error.status === 409) continue;
        failures += 1;
        tell("upload_problem", { id: this.id, message: error.message });
        await pause(REST_LOOK * failures);
      }
    }
    uploads.delete(this.id);
  }

  fits(index, path) {
    return this.files[index] !== undefined && (path === null || this.files[index].path === path);
  }

  /** Sends what is wanted and what is wanted next, as long as the answers say. */
  async sendFrom(wanted) {
    let index = wanted;
    while (index !== null) index = (await this.send(index)).wanted;
  }

  async send(index) {
    this.states.set(index, "sending");
    this.current = { index, sent: 0 };
    this.sending = put(`/api/jobs/${this.id}/files/${index}`, this.files[index].file, (sent) => {
      this.current.sent = sent;
      tell("upload_moves", this);
    });
    try {
      const answer = await this.sending.answer;
      this.states.set(index, answer.held ? "held" : "sent");
      return answer;
    } catch (error) {
      if (error.aborted || error.status === 409) this.states.delete(index);
      else this.states.set(index, "failed");
      throw error;
    } finally {
      this.sending = null;
      this.current = null;
      tell("upload_moves", this);
    }
  }

  /** Stops sending: what is under way is sent again from its start. */
  stop() {
    this.sending?.abort();
  }

  /** What is known of a file; what was never asked for is held by the server once the job has passed it. */
  state(index, job) {
    const state = this.states.get(index);
    if (state) return state;
    return job?.state === "completed" || index < (this.passed ?? 0) ? "held" : "waiting";
  }

  end(job) {
    this.ended = true;
    this.stop();
    tell("upload_moves", this);
    tell("jobs_changed", job);
  }
}

/** The upload of this job, if this page has its files. */
export const uploadOf = (id) => uploads.get(id);

/** Whether leaving the page would cut something off. */
export const isUploading = () => [...uploads.values()].some((upload) => !upload.ended);

/** Begins an upload of a list that is in the order of paths. */
export async function begin(files, label) {
  const list = files.map(({ path, size, mtime }) => ({ path, size, mtime }));
  const { job_id: id, job } = await post("/api/jobs", { files: list, label });
  adopt(id, files);
  return job;
}

/** Goes on with an upload whose files have been picked again. */
export async function again(id, files) {
  await post(`/api/jobs/${id}/resume`);
  adopt(id, files);
}

function adopt(id, files) {
  for (const [old, upload] of uploads) if (upload.ended) uploads.delete(old);
  const upload = new Upload(id, files);
  uploads.set(id, upload);
  upload.run();
}
