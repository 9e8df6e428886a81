// Uploads of this browser: the bridge says which file is wanted, and that one is sent, with those that follow it
// where they are small.
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
/** Small files go together in one request: so many, and so many bytes in all. */
const TOGETHER_MAX = 256;
const TOGETHER_BYTES = 4 * 1024 * 1024;

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
    this.current = null;
    /** The most files that the next request has. */
    this.most = 1;
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
    while (index !== null) index = (await this.send(index, this.together(index))).wanted;
  }

  /** How many files go together, from one on: more each time, while the server wants all of them. */
  together(index) {
    let count = 0;
    for (let bytes = 0; count < this.most && index + count < this.files.length; count += 1) {
      bytes += this.files[index + count].size;
      if (count > 0 && bytes > TOGETHER_BYTES) break;
    }
    return count;
  }

  async send(index, count) {
    const files = this.files.slice(index, index + count);
    const path = `/api/jobs/${this.id}/files/${index}?count=${count}`;
    this.moved(index, files, 0);
    // Files are read when they are sent: a body of many takes no memory.
    this.sending = put(path, count > 1 ? new Blob(files.map(({ file }) => file)) : files[0].file, (sent) => this.moved(index, files, sent));
    try {
      const answer = await this.sending.answer;
      files.forEach((_, place) => this.states.set(index + place, "sent"));
      for (const held of answer.held_files) this.states.set(held, "held");
      this.most = answer.held_files.length ? Math.ceil(this.most / 4) : Math.min(2 * this.most, TOGETHER_MAX);
      return answer;
    } catch (error) {
      const isFailed = !error.aborted && error.status !== 409;
      files.forEach((_, place) => this.states.delete(index + place));
      if (isFailed) this.states.set(this.current.index, "failed");
      // Next time alone, so that the one to blame shows.
      this.most = 1;
      throw error;
    } finally {
      this.sending = null;
      this.current = null;
      tell("upload_moves", this);
    }
  }

  /** So many bytes of files that go together have left. */
  moved(first, files, sent) {
    let [place, left] = [0, sent];
    while (place < files.length - 1 && left >= files[place].size) {
      left -= files[place].size;
      this.states.set(first + place, "sent");
      place += 1;
    }
    this.states.set(first + place, "sending");
    this.current = { index: first + place, sent: left };
    tell("upload_moves", this);
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
export async function begin(files, label, vault) {
  const list = files.map(({ path, size, mtime }) => ({ path, size, mtime }));
  const { job_id: id, job } = await post("/api/jobs", { files: list, label, vault });
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
