package adminhttp

import (
	"net/http"
	"strconv"
	"time"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

func (h *Handler) statusNow(w http.ResponseWriter, _ *http.Request) {
	h.json(w, http.StatusOK, h.document(h.m.Status()))
}

type healthDoc struct {
	Success bool   `json:"success"`
	Status  string `json:"status"` // "ok" or "closed"
}

func (h *Handler) health(w http.ResponseWriter, _ *http.Request) {
	if h.m.Status().Closed {
		h.json(w, http.StatusServiceUnavailable, healthDoc{false, "closed"})
		return
	}
	h.json(w, http.StatusOK, healthDoc{true, "ok"})
}

// readyDoc is served without the token: stable words and our own texts only,
// no names, no errors of the backend.
type readyDoc struct {
	Success bool             `json:"success"`
	Ready   bool             `json:"ready"`
	Mode    stability.Mode   `json:"waMode"`
	Status  reconnect.Status `json:"waStatus"`
	Reason  *string          `json:"reason"`
	Message string           `json:"message"`
}

func (h *Handler) ready(w http.ResponseWriter, r *http.Request) {
	doc := readiness(h.m.Status(), r.URL.Query().Get("standby") == "ok")
	code := http.StatusOK
	if !doc.Ready {
		code = http.StatusServiceUnavailable
	}
	h.json(w, code, doc)
}

// readiness is pure. With standby, to stand by is ready enough.
func readiness(st stability.Status, standby bool) readyDoc {
	doc := readyDoc{Mode: st.Mode, Status: st.WA, Message: "Connected."}
	active := st.Mode == stability.ModeActive
	switch {
	case st.Closed:
		doc.Message = "Closed: this instance does nothing any more."
	case !active && !st.RunEndedAt.IsZero(): // whatever is asked for: it never takes over
		doc.Message = "Run has ended: this instance looks after nothing until it is called again."
	case active && st.WA == reconnect.StatusConnected:
		doc.Ready = true
	case st.StoreUnavailable != nil:
		doc.Reason = filled(string(reconnect.ReasonStoreUnavailable))
		doc.Message = reconnect.ReasonStoreUnavailable.Text().Means
	case !active:
		doc.Ready = standby
		doc.Message = "Standing by: this instance does not hold the lock."
		if !doc.Ready {
			doc.Message += " If that is ready enough, ask with the parameter standby=ok."
		}
	default:
		doc.Reason = filled(string(st.LastDisconnectReason))
		st.LastDisconnectDetail, st.State.FirstDisconnectDetail = "", "" // not ours
		x := explain(st)
		doc.Message = "Not connected. " + x.why + " " + x.next
	}
	doc.Success = doc.Ready
	return doc
}

type incidentsDoc struct {
	Success   bool          `json:"success"`
	Timestamp stamp         `json:"timestamp"`
	Active    int           `json:"active"`
	Note      *string       `json:"note"`
	Incidents []incidentDoc `json:"incidents"`
}

type incidentDoc struct {
	ID              string            `json:"id"`
	Type            guard.Type        `json:"type"`
	Active          bool              `json:"active"`
	InstanceID      *string           `json:"instanceId"`
	DetectedAt      stamp             `json:"detectedAt"`
	FirstDetectedAt stamp             `json:"firstDetectedAt"`
	LastCheckedAt   stamp             `json:"lastCheckedAt"`
	ResolvedAt      stamp             `json:"resolvedAt"`
	Evidence        map[string]string `json:"evidence"`
	Instructions    string            `json:"instructions"`
	Runbook         string            `json:"runbook"`
}

func (h *Handler) incidents(w http.ResponseWriter, _ *http.Request) {
	list := h.m.Incidents()
	doc := incidentsDoc{Success: true, Timestamp: stamp(time.Now()), Incidents: make([]incidentDoc, 0, len(list))}
	if h.m.Status().Mode != stability.ModeActive {
		doc.Note = filled("This instance stands by: the list is what it knew when it was last active and what it has seen itself. The instance that holds the lock knows all.")
	}
	for _, inc := range list {
		if inc.Active {
			doc.Active++
		}
		evidence := make(map[string]string, len(inc.Evidence))
		for k, v := range inc.Evidence {
			evidence[k] = h.mask(v)
		}
		doc.Incidents = append(doc.Incidents, incidentDoc{
			ID: inc.ID, Type: inc.Type, Active: inc.Active, InstanceID: filled(inc.InstanceID),
			DetectedAt: stamp(inc.DetectedAt), FirstDetectedAt: stamp(inc.FirstDetectedAt), LastCheckedAt: stamp(inc.LastCheckedAt),
			ResolvedAt: stamp(inc.ResolvedAt), Evidence: evidence, Instructions: h.mask(inc.Instructions), Runbook: h.mask(inc.Runbook),
		})
	}
	h.json(w, http.StatusOK, doc)
}

type qrDoc struct {
	Success     bool   `json:"success"`
	Code        string `json:"code"`
	ExpiresAt   stamp  `json:"expiresAt"`
	ExpiresInMs int64  `json:"expiresInMs"`
}

func (h *Handler) qr(w http.ResponseWriter, r *http.Request) {
	q, ok := h.m.QR()
	if !ok {
		h.fail(w, http.StatusNotFound, "no_code", noCode(h.m.Status()))
		return
	}
	if accepts(r, "image/png") {
		if png, err := q.PNG(); err == nil { // else the text is better than nothing
			w.Header().Set("Content-Type", "image/png")
			w.Header().Set("Content-Length", strconv.Itoa(len(png)))
			w.Header().Set("X-Expires-At", q.ExpiresAt.UTC().Format("2006-01-02T15:04:05.000Z"))
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write(png)
			return
		}
	}
	h.json(w, http.StatusOK, qrDoc{Success: true, Code: q.Code, ExpiresAt: stamp(q.ExpiresAt), ExpiresInMs: max(0, time.Until(q.ExpiresAt).Milliseconds())})
}

// noCode says why there is no code to scan.
func noCode(st stability.Status) string {
	switch {
	case st.Closed:
		return "There is no code to scan: the Manager is closed."
	case st.Mode != stability.ModeActive:
		return "There is no code to scan here: this instance stands by. Ask the instance that holds the lock."
	case st.WA == reconnect.StatusConnected:
		return "There is no code to scan: the account is paired and connected."
	case st.Parked:
		return "There is no code to scan. Ask for one (Show a code), then look here again after some seconds."
	case st.WA == reconnect.StatusNeedsPairing:
		return "There is no code to scan yet. Look here again after some seconds."
	}
	return "There is no code to scan: the account is paired. It is disconnected at the moment; the status says why."
}
