// Figures and times as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count) {
  let unit = 0;
  let value = Number(count) || 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export const rate = (count) => `${bytes(count)}/s`;

export const number = (count) => (Number(count) || 0).toLocaleString("en");

export const plural = (count, word) => `${number(count)} ${word}${Number(count) === 1 ? "" : "s"}`;

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${whole % 60} s`;
  return `${whole} s`;
}

export function time(text) {
  const date = new Date(text);
  if (!text || Number.isNaN(date.getTime())) return text ?? "";
  return date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

export const clock = (text) => new Date(text).toLocaleTimeString("en-GB");
