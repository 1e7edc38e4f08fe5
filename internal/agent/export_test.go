// SPDX-License-Identifier: Apache-2.0

package agent

// Telling reports whether a kernel event would start a pass.
var Telling = (*Agent).telling
