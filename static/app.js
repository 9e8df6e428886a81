const status = document.querySelector("#status");
const answer = await fetch("/api/status");
status.textContent = (await answer.json()).phase;
