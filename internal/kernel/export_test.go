// SPDX-License-Identifier: Apache-2.0

package kernel

import "context"

// MonitorWithBuffer is Handle.Monitor with a receive buffer of so many bytes.
func MonitorWithBuffer(h *Handle, ctx context.Context, bytes int, each func(Event)) error {
	return h.monitor(ctx, bytes, 0, each)
}
