// Plays several videos as one: together, looping, muted. The longest video is the clock; a shorter one waits on
// its last frame until all start again.

const DRIFT_SECONDS = 0.04;
const SEEN_SHARE = 0.9;

export class SyncPlayer {
  // videos: HTMLVideoElement[]; rates: frames per second of each; onChange is called when anything changed;
  // loadTimes(index): promise of the seconds at which the frames of a video of variable rate begin, null for others.
  constructor(videos, rates, onChange, loadTimes = async () => null) {
    this.videos = videos;
    this.rates = rates;
    this.onChange = onChange;
    this.times = videos.map(() => null);
    this.seen = videos.map(() => false);
    this.failed = videos.map(() => false);
    this.playing = false;
    this.rate = 1;
    this.restarting = false;
    this.closed = false;
    videos.forEach((video, index) => {
      video.addEventListener('ended', () => this.markSeen(index));
      video.addEventListener('error', () => { this.failed[index] = true; this.onChange(); });
    });
    videos.forEach((_, index) => loadTimes(index).then((times) => { this.times[index] = times; }, () => {}));
    requestAnimationFrame(() => this.tick());
  }

  get usable() { return this.videos.filter((video) => video.duration > 0); }

  get clock() {
    return this.usable.reduce((longest, video) => (!longest || video.duration > longest.duration ? video : longest), null);
  }

  get duration() { return this.clock ? this.clock.duration : 0; }

  get time() { return this.clock ? this.clock.currentTime : 0; }

  async ready() {
    await Promise.all(this.videos.map((video) => new Promise((resolve) => {
      if (video.readyState >= 2 || video.error) resolve();
      video.addEventListener('loadeddata', resolve, { once: true });
      video.addEventListener('error', resolve, { once: true });
    })));
    this.onChange();
  }

  play() {
    this.playing = true;
    for (const video of this.usable) {
      video.playbackRate = this.rate;
      if (video.currentTime < video.duration) video.play().catch(() => {});
    }
    if (this.clock && this.clock.ended) this.restart();
    this.onChange();
  }

  pause() {
    this.playing = false;
    for (const video of this.videos) video.pause();
    this.align();
    this.onChange();
  }

  toggle() { if (this.playing) this.pause(); else this.play(); }

  setRate(rate) {
    this.rate = rate;
    for (const video of this.videos) video.playbackRate = rate;
    this.onChange();
  }

  // Shows all videos at the middle of the frame that is `frames` away, of the video with the most frames.
  step(frames) {
    if (this.playing) this.pause();
    const { duration, time } = this;
    const starts = this.frameStarts();
    const count = starts.length;
    const shown = Math.max(0, starts.findLastIndex((start) => start <= time + 1e-6));
    const frame = (((shown + frames) % count) + count) % count;
    const end = frame + 1 < count ? starts[frame + 1] : Math.max(duration, starts[frame]);
    this.seek((starts[frame] + end) / 2);
  }

  // Seconds at which the frames begin of the video that has the most.
  frameStarts() {
    const all = this.videos.map((video, index) => this.times[index] || evenStarts(video.duration, this.rates[index]));
    return all.reduce((most, starts) => (starts.length > most.length ? starts : most));
  }

  seek(time) {
    this.videos.forEach((video, index) => {
      if (video.duration > 0) video.currentTime = Math.min(time, video.duration - 0.5 / this.rates[index]);
    });
    this.onChange();
  }

  align() {
    const clock = this.clock;
    if (!clock) return;
    for (const video of this.usable) {
      const target = Math.min(clock.currentTime, video.duration);
      const waiting = video.seeking || (video.ended && target >= video.duration);
      if (video !== clock && !waiting && Math.abs(video.currentTime - target) > DRIFT_SECONDS) {
        video.currentTime = target;
        if (this.playing && video.paused) video.play().catch(() => {});
      }
    }
  }

  async restart() {
    if (this.restarting) return;
    this.restarting = true;
    await Promise.all(this.usable.map((video) => new Promise((resolve) => {
      video.pause();
      video.addEventListener('seeked', resolve, { once: true });
      setTimeout(resolve, 500);
      video.currentTime = 0;
    })));
    this.restarting = false;
    if (this.playing && !this.closed) this.play();
  }

  markSeen(index) {
    if (this.seen[index]) return;
    this.seen[index] = true;
    this.onChange();
  }

  tick() {
    if (this.closed) return;
    this.videos.forEach((video, index) => {
      if (!this.seen[index] && video.duration > 0 && playedSeconds(video) >= SEEN_SHARE * video.duration) this.markSeen(index);
    });
    if (this.playing && !this.restarting) {
      if (this.clock && this.clock.ended) this.restart(); else this.align();
      this.onChange();
    }
    requestAnimationFrame(() => this.tick());
  }

  close() {
    this.closed = true;
    for (const video of this.videos) {
      video.pause();
      video.removeAttribute('src');
      video.load();
    }
  }
}

function evenStarts(duration, fps) {
  return Array.from({ length: Math.max(1, Math.round((duration || 0) * fps)) }, (_, index) => index / fps);
}

function playedSeconds(video) {
  let total = 0;
  for (let i = 0; i < video.played.length; i += 1) total += video.played.end(i) - video.played.start(i);
  return total;
}
