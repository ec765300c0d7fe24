import { app } from "../../scripts/app.js";
import { badgeButtons, startBadge } from "./badge.js";
import { connect } from "./connection.js";
import { addStyle } from "./dom.js";
import { addBadges, startNodeBadges } from "./node_badge.js";
import { noteOpening, restoreResults, startResults } from "./node_results.js";
import { addText, startTexts } from "./node_text.js";
import { sidebarTab } from "./panel.js";
import { settings } from "./settings.js";
import { loadTexts } from "./texts.js";
import { startToasts } from "./toasts.js";

app.registerExtension({
  name: "xpu-nodes",
  settings,
  get actionBarButtons() {
    return badgeButtons();
  },
  nodeCreated(node) {
    addBadges(node);
    addText(node);
  },
  beforeConfigureGraph: noteOpening,
  afterConfigureGraph: restoreResults,
  async setup() {
    addStyle();
    await loadTexts();
    connect();
    app.extensionManager.registerSidebarTab(sidebarTab);
    startBadge();
    startToasts();
    startNodeBadges();
    startTexts();
    startResults();
  },
});
